# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench`: latency of an engine file on this machine, per stage: a table, JSON and a stacked-bar picture."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from lightwam.bench.figures import Record, check_figures_output, write_figures
from lightwam.bench.measure import MAX_IMAGE_SIZE, BenchOptions, measure_alone
from lightwam.bench.show import draw, print_table, where
from lightwam.errors import ConfigError
from lightwam.kernels.targets import GPUS
from lightwam.pictures import can_draw
from lightwam.runtime.policy import DeviceName

if TYPE_CHECKING:
    ModelledGpu = str
else:
    ModelledGpu = Literal[tuple(GPUS)]


@dataclass(frozen=True)
class BenchArgs(BenchOptions):
    """Measure the latency of one action chunk on random observations."""

    engine: Path | None = None
    """Engine file (*.lwam); the bundled policy when absent."""
    threads: tuple[int, ...] = ()
    """Numbers of CPU threads, each measured in a process of its own; all cores when absent."""
    out: Path | None = None
    """Folder for bench.json and, with matplotlib, bench.png (or roofline.json); nothing is written when absent."""
    roofline: bool = False
    """Predict a chunk on a GPU instead, from the FLOPs and bytes of the engine's launch plan. Measures nothing."""
    device: DeviceName | ModelledGpu | None = None
    """What runs: cpu (when absent); cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if
    it can, else cpu. With --roofline the GPU that the prediction is for; orin when absent."""

    @property
    def runs_on(self) -> DeviceName:
        """The device of a measurement. Raises `ConfigError` for a GPU that only --roofline knows."""
        if self.device is None:
            return "cpu"
        if self.device in get_args(DeviceName):
            return cast(DeviceName, self.device)
        raise ConfigError(f"--device {self.device} is a GPU of --roofline: add that, or measure on cpu, cuda or auto")

    @property
    def predicted_for(self) -> ModelledGpu:
        """The GPU of a prediction. Raises `ConfigError` for a device that is measured on."""
        if self.device is None:
            return "orin"
        if self.device in get_args(DeviceName):
            known = ", ".join(GPUS)
            raise ConfigError(f"--device {self.device} is no GPU that --roofline knows: give one of {known}")
        return self.device


def main(arguments: BenchArgs) -> int:
    """Run the measurement; returns the exit status. Errors: ConfigError for a count or size out of range."""
    _check(arguments)
    from lightwam.assets import bundled_engine

    engine = arguments.engine or bundled_engine()
    if arguments.roofline:
        from lightwam.cli.roofline import main as predict

        return predict(engine, arguments.predicted_for, arguments.out)
    if arguments.out is not None:
        check_figures_output(arguments.out)
        if not can_draw():
            print(f"without {arguments.out / 'bench.png'}: for pictures, pip install matplotlib", file=sys.stderr)
    records: list[Record] = []
    for threads in arguments.threads or (None,):
        measurement = measure_alone(engine, arguments.runs_on, threads, arguments)
        record = measurement.record
        records.append(record)
        if arguments.out is not None:  # at once: what was measured stays when the next one fails or is interrupted
            write_figures(records, arguments.out / "bench.json", engine=engine.name)
        print_table(measurement, f"{engine.name}, {record.precision}, {where(record)}, {arguments.runs} chunks")
    if arguments.out is not None:
        print(f"wrote {arguments.out / 'bench.json'}")
        if can_draw() and draw(records, engine.name, arguments.out / "bench.png"):
            print(f"wrote {arguments.out / 'bench.png'}")
    return 0


def _check(arguments: BenchArgs) -> None:
    if min((arguments.runs, arguments.warmup, arguments.image_size, *arguments.threads)) < 1:
        raise ConfigError(
            f"--runs {arguments.runs}, --warmup {arguments.warmup}, --image-size {arguments.image_size}, "
            f"--threads {arguments.threads}: each must be at least 1"
        )
    device = arguments.predicted_for if arguments.roofline else arguments.runs_on
    if arguments.threads and device == "cuda":
        raise ConfigError(f"--threads {arguments.threads} counts CPU threads, but --device is cuda: leave one out")
    if arguments.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size is {arguments.image_size}: use at most {MAX_IMAGE_SIZE}")
