# SPDX-License-Identifier: Apache-2.0
"""Ours beside its peers: same random weights, same inputs, same run. One command, resumable.

    python benchmarks/report.py --size nano            minutes
    python benchmarks/report.py --size libero          the full-size model: an hour, 24 GB of memory, 25 GB of disk

Prepares the files, lets every peer take turns with ours, and writes FOLDER/SIZE-table.md, FOLDER/SIZE-figures.json (the
schema of lightwam.bench.figures) and a stacked-bar picture. A pair that was measured with as many threads and at least
as many rounds is not measured again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contenders import ENTRIES, Setting
from prepare import run_step, steps_for
from summary import Comparison, draw, summarise, table
from turns import ContenderError, take_turns

from lightwam.bench.figures import write_figures
from lightwam.cli.parse import parse
from lightwam.errors import ConfigError
from lightwam.progress import progress_bar

ROUNDS = {"nano": 60, "libero": 9}


@dataclass(frozen=True)
class Arguments:
    """Compare the runtime with its peers."""

    size: Literal["nano", "libero"] = "nano"
    """Which configuration's random weights."""
    folder: Path = Path("outputs/peers")
    """Where files and results are kept. Engines (SIZE-PRECISION.lwam) and models that are there already are used as
    they are, whatever made them: after a change of the exporter, delete them and measure --again."""
    picture: Path | None = None
    """The picture to write; FOLDER/SIZE-stages.png when absent."""
    rounds: int | None = None
    """Chunks of every contender in a pair; 60 of nano and 9 of libero when absent."""
    only: tuple[str, ...] = ()
    """Contenders to measure; all when absent."""
    threads: int = 2
    """Threads of every contender."""
    again: bool = False
    """Measure again what has been measured."""


def main(arguments: Arguments) -> int:
    unknown = [name for name in arguments.only if name not in ENTRIES]
    if unknown or (arguments.rounds or 1) < 1 or arguments.threads < 1:
        sys.exit(f"report: unknown contenders {unknown} or a count below 1; contenders are {list(ENTRIES)}")
    setting = Setting(arguments.size, arguments.folder.absolute(), arguments.threads)
    setting.folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in ENTRIES if not arguments.only or name in arguments.only]
    missing = {name: ENTRIES[name].missing() for name in wanted}
    left_out = {name: f"not installed: {', '.join(packages)}" for name, packages in missing.items() if packages}
    available = [name for name in wanted if name not in left_out]
    left_out.update(_prepare(setting, available))
    rounds = arguments.rounds or ROUNDS[arguments.size]
    for group in _groups(available, left_out):
        _measure(group, setting, rounds, arguments.again, left_out)
    comparison = _comparison(setting, left_out)
    _write(comparison, setting, arguments.picture or setting.folder / f"{setting.size}-stages.png")
    return 0


def _prepare(setting: Setting, contenders: list[str]) -> dict[str, str]:
    """Make the files; returns who has to stay out, and why."""
    ours = {name for contender in contenders for name in ENTRIES[contender].opponents}
    everyone = tuple(name for name in ENTRIES if name in contenders or name in ours)
    left_out: dict[str, str] = {}
    for step in steps_for(setting, everyone):
        print(f"preparing {step.name}", flush=True)
        failure = run_step(step, setting.folder / f"{setting.size}-{step.name.replace(' ', '-')}.log")
        if failure is not None:
            left_out.update({name: failure for name in everyone if _needs(name, step.name)})
    return left_out


def _needs(contender: str, step: str) -> bool:
    family, precision = contender.split("-")
    if step.startswith("engine"):
        return step == "engine f32" or (family == "lightwam" and step == f"engine {precision}")
    if step in ("onnx", "instruction"):
        return family in ("openvino", "onnxruntime")
    return contender == "openvino-int8" if step == "int8" else family != "lightwam"


def _groups(contenders: list[str], left_out: dict[str, str]) -> list[list[str]]:
    """A peer first, then those of ours that take turns with it; ours alone where no peer is measured."""
    wanted = [name for name in contenders if name not in left_out]
    peers = [name for name in wanted if ENTRIES[name].opponents]
    groups = [[peer, *(name for name in ENTRIES[peer].opponents if name not in left_out)] for peer in peers]
    met = {name for group in groups for name in group}
    return groups + [[name] for name in wanted if name not in met]


def _result_file(setting: Setting, group: list[str]) -> Path:
    return setting.folder / f"{setting.size}-result-{'+'.join(group)}.json"


def is_reusable(file: Path, threads: int, rounds: int) -> bool:
    """Whether a stored result is of this number of threads and of at least this many rounds."""
    if not file.exists():
        return False
    stored = json.loads(file.read_text())
    fewest = min((len(measured["rounds"]) for measured in stored["results"].values()), default=0)
    return bool(stored["threads"] == threads and fewest >= rounds)


def _measure(group: list[str], setting: Setting, rounds: int, again: bool, left_out: dict[str, str]) -> None:
    file = _result_file(setting, group)
    if not again and is_reusable(file, setting.threads, rounds):
        print(f"{' and '.join(group)}: measured before")
        return
    with progress_bar(" and ".join(group), rounds + len(group), show=True) as advance:
        try:
            results = take_turns(group, setting, rounds, setting.folder, lambda: advance(1))
        except ContenderError as error:
            print(f"left out: {error}")
            left_out[group[0]] = str(error)
            return
    for older in setting.folder.glob(f"{setting.size}-result-{group[0]}*.json"):  # with other opponents
        older.unlink()
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps({"threads": setting.threads, "group": group, "results": results}))
    temporary.replace(file)


def _comparison(setting: Setting, left_out: dict[str, str]) -> Comparison:
    files = sorted(setting.folder.glob(f"{setting.size}-result-*.json"))
    of_these_threads = [file for file in files if is_reusable(file, setting.threads, rounds=1)]
    results = [json.loads(file.read_text()) for file in of_these_threads]
    return summarise(setting, results, measured_peaks(setting), left_out)


def measured_peaks(setting: Setting) -> dict[str, float]:
    """Peak FLOP/s of this machine by precision, from the C++ benchmark; none where that is not built."""
    programs = sorted(Path(__file__).parents[1].glob("build/*/benchmarks/cpp/bench_ops"))
    if not programs:
        print("bench_ops is not built: shares of the machine's peak are left out (make test-cpp builds it)")
        return {}
    command = [str(programs[0]), "--threads", str(setting.threads), "--only", "no operation"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    header = next((line for line in printed.splitlines() if "peak" in line), "")
    return {precision: float(gflops) * 1e9 for precision, gflops in re.findall(r"(f32|bf16|int8|i8) (\d+)", header)}


def _write(comparison: Comparison, setting: Setting, picture: Path) -> None:
    text = table(comparison)
    file = setting.folder / f"{setting.size}-table.md"
    file.write_text(text)
    more: dict[str, Any] = {"ratios": comparison.ratios, "left_out": comparison.left_out}
    write_figures(list(comparison.records.values()), setting.folder / f"{setting.size}-figures.json", **more)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(comparison, picture)
    print(text)
    print(f"wrote {file}, {setting.size}-figures.json and {picture}")


if __name__ == "__main__":
    try:
        options = parse(Arguments, "report.py", sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"report.py: {error}")
    raise SystemExit(main(options))
