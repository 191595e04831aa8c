# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench --roofline`: the predicted time of an engine file's launch plan on a GPU that need not be here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightwam.engine.graph import STAGES
from lightwam.errors import ConfigError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file
from lightwam.gpu.roofline import SHARE, LaunchPrediction, Prediction, predict_engine
from lightwam.gpu.side import parts
from lightwam.terminal import table


def main(engine: Path, gpu_name: str, out: Path | None) -> int:
    """Print the prediction, write `roofline.json` into `out` if given. Raises what `predict_engine` does."""
    if out is not None:
        check_output(out / "roofline.json", "a prediction", ConfigError, _is_prediction)
    prediction = predict_engine(engine, gpu_name)
    if out is not None:  # before the table: the file outlives a terminal that cannot show it
        out.mkdir(parents=True, exist_ok=True)
        with replacing_file(out / "roofline.json") as path:
            path.write_text(json.dumps(prediction.to_json(), indent=1) + "\n")
    print_prediction(prediction)
    if out is not None:
        print(f"wrote {out / 'roofline.json'}")
    return 0


def _is_prediction(path: Path, _: FileKind) -> bool:
    return b'"kind": "prediction"' in path.read_bytes()


def print_prediction(prediction: Prediction) -> None:
    """Launches, FLOPs, bytes, predicted times without and with the cache model, by stage and kernel; bound; memory."""
    costs, gpu = prediction.costs, prediction.gpu
    columns = ("MB", "ms, 100 %", f"ms, {SHARE:.0%}")
    headings = ("stage", "launches", "GFLOP", *columns, *(f"{column}, cache" for column in columns))
    what = f"{prediction.engine}, {prediction.precision}, {gpu.name}"
    rows = prediction.launches()
    lines: list[list[str]] = []
    for stage in (stage for stage in STAGES if any(row.launch.stage == stage for row in rows)):
        of_stage = [row for row in rows if row.launch.stage == stage]
        lines.append([stage, *_figures(of_stage)])
        for kernel in dict.fromkeys(row.launch.kernel for row in of_stage):
            lines.append([f"  {kernel}", *_figures([row for row in of_stage if row.launch.kernel == kernel])])
    lines.append(["chunk", *_figures(rows)])
    print(table(headings, lines, f"Prediction, not a measurement: {what}"))
    source = "measured" if gpu.measured else "from data sheets"
    memory = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in costs.memory.items())
    fits = "fits" if costs.peak_memory < gpu.memory else "does not fit"
    print(
        f"An instruction of {costs.text_rows} rows. Peaks and bandwidth are {source}; a launch takes the longest of "
        f"its matmuls, its bytes of memory and of the cache, and nothing to start.\n"
        f"MB and ms: all through device memory; with 'cache': the cache model, which keeps what was used last in half "
        f"of the nominal {gpu.cache / 2**20:.0f} MiB.\n"
        f"{_side_text(prediction)}"
        f"All through memory: {costs.num_bytes / 1e6:.0f} MB, {costs.num_bytes / costs.bound:.2f} of the least that "
        f"fused groups can move.\n"
        f"Device memory {costs.peak_memory / 1e6:.0f} MB, {fits} in {gpu.memory / 1e9:.0f} GB; without machine "
        f"code and driver: {memory}."
    )


def _side_text(prediction: Prediction) -> str:
    """How much of a side stream is predicted to hide, as a line; empty without one."""
    side, beside, _ = parts(prediction.costs.side_stream, prediction.costs.launches)
    if not side:
        return ""
    told = [f"{1e3 * part / SHARE:.2f} of {1e3 * of / SHARE:.2f} ms" for part, of in prediction.hidden_seconds()]
    return (
        f"Side stream: {len(side)} launches, {sum(launch.num_bytes for launch in side) / 1e6:.0f} MB, beside "
        f"{len(beside)} others: while those wait for their matmuls, {told[0]} at {SHARE:.0%} hide ({told[1]} with the "
        f"cache), if the GPU runs both at once; ms are what is left.\n"
    )


def _figures(rows: Sequence[LaunchPrediction]) -> list[str]:
    """The cells of some launches together."""

    def cells(num_bytes: int, seconds: float) -> list[str]:
        return [f"{num_bytes / 1e6:.1f}", f"{1e3 * seconds:.2f}", f"{1e3 * seconds / SHARE:.2f}"]

    return [
        str(len(rows)),
        f"{sum(row.launch.flops for row in rows) / 1e9:.1f}",
        *cells(sum(row.launch.num_bytes for row in rows), sum(row.seconds for row in rows)),
        *cells(sum(row.through_memory for row in rows), sum(row.seconds_with_cache for row in rows)),
    ]
