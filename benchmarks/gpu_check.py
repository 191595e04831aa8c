# SPDX-License-Identifier: Apache-2.0
"""Checks and times everything on this machine's GPU: build, kernels, engines, policies, PyTorch beside them.

    benchmarks/gpu_check.sh [--out FOLDER] [--wheels FOLDER] [--engine FILE ...] [--seconds 480]

Every step is a process with a time limit. What fails is named in the report, and the rest goes on. This file needs
Python alone; what the steps need is installed into the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpu_driver import Gpu, GpuError, GpuFacts
from gpu_report import read_result, write_report

ROOT = Path(__file__).parents[1]
TARGETS = runpy.run_path(str(ROOT / "kernels/targets.py"))["TARGETS"]  # the package is not there before the build
STEPS = str(Path(__file__).parent / "gpu_steps.py")
NANO = ROOT / "python/lightwam/assets/nano-libero-object-0.lwam"
#: Engines of random weights.
RANDOM = (("nano", "bf16"), ("libero", "bf16"), ("libero", "int8"))


@dataclass(frozen=True)
class Step:
    """A process. `limit`: seconds. `needs`: names of steps without which it is left out. `makes`: a file, if any.

    Steps with `alone` run one after the other when all others are done: nothing may disturb what they time.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()
    makes: Path | None = None
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a step ended: "done", "disagrees" (its result says so), "failed", "time is up" or "left out", and why."""

    name: str
    state: str
    seconds: float = 0.0
    why: str = ""


@dataclass
class Check:
    """A check of this machine that is under way."""

    folder: Path
    deadline: float
    environment: dict[str, str]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run_all(self, steps: Sequence[Step]) -> None:
        """Steps that need nothing first, then those that time something, one after the other."""
        together = [step for step in steps if not step.alone]
        with ThreadPoolExecutor(max(1, len(together))) as pool:
            list(pool.map(self.run, together))
        for step in steps:
            if step.alone:
                self.run(step)

    def run(self, step: Step) -> Outcome:
        """Run a step unless it is too late, or something that it needs is missing."""
        missing = [name for name in step.needs if self.outcomes[name].state != "done"]
        left = self.deadline - time.monotonic()
        if missing:
            outcome = Outcome(step.name, "left out", why=f"it needs: {', '.join(missing)}")
        elif left < 5:
            outcome = Outcome(step.name, "left out", why="the time of the whole check is up")
        else:
            print(f"{step.name} ...", flush=True)
            outcome = self._execute(step, min(step.limit, left))
        self.outcomes[step.name] = outcome
        print(f"{outcome.name}: {outcome.state} ({outcome.seconds:.1f} s) {outcome.why}".rstrip(), flush=True)
        return outcome

    def _execute(self, step: Step, limit: float) -> Outcome:
        log = self.folder / "logs" / f"{step.name.replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                step.command, stdout=output, stderr=subprocess.STDOUT, env=self.environment, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                return Outcome(step.name, "time is up", limit, last_line(log))
            finally:  # its own processes too, also when we are interrupted
                end_group(process)
        seconds = time.monotonic() - began
        if status != 0 and step.makes is not None and step.makes.suffix == ".json" and step.makes.exists():
            return Outcome(step.name, "disagrees", seconds, last_line(log))
        if status != 0 or (step.makes is not None and not step.makes.exists()):
            return Outcome(step.name, "failed", seconds, f"exit status {status}: {last_line(log)}")
        return Outcome(step.name, "done", seconds)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip("│╭╮╰╯─ ") for line in log.read_text(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def build_steps(arguments: argparse.Namespace, site: Path) -> list[Step]:
    """lightwam into a folder of its own; from wheels without a network where a folder of them is given."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(site))
    wheels = sorted(str(path) for path in arguments.wheels.glob("*.whl")) if arguments.wheels else []
    steps = [Step("wheels", (*pip, "--no-index", *wheels), 60)] if wheels else []
    if not any(Path(wheel).name.startswith("lightwam-") for wheel in wheels):
        isolation = ("--no-build-isolation",) if arguments.wheels else ()
        steps.append(Step("build", (*pip, *isolation, str(ROOT)), 150, tuple(step.name for step in steps)))
    return steps


def engine_steps(arguments: argparse.Namespace, target: str, ready: tuple[str, ...]) -> tuple[list[Step], list[Path]]:
    """Engine files with machine code for this GPU only, and the files: given ones, the bundled policy, random ones."""
    folder, cache = arguments.out / "engines", ("--cache", str(arguments.out / "cache"))
    lightwam = (sys.executable, "-m", "lightwam.cli")
    nano = folder / "nano-f32.lwam"
    steps = [Step("engine nano-f32", (*lightwam, "compile", str(NANO), str(nano), "--targets", target, *cache), 120,
                  ready, nano)]  # fmt: skip
    for size, precision in RANDOM:
        name, made = f"{size}-{precision}", folder / f"{size}-{precision}.lwam"
        script = (
            f'"$0" -m lightwam.cli export --random {size} --precision {precision} --out "$1" && '
            '"$0" -m lightwam.cli compile "$1" "$4" --targets "$2" --cache "$3" && rm "$1"'
        )
        plain = folder / f"plain-{name}.lwam"
        command = ("sh", "-c", script, sys.executable, str(plain), target, cache[1], str(made))
        steps.append(Step(f"engine {name}", command, 240, ready, made))
    given = [path.absolute() for path in arguments.engine]
    return steps, [*given, nano, *(step.makes for step in steps[1:] if step.makes)]


def measuring_steps(arguments: argparse.Namespace, engines: Sequence[Path], ready: tuple[str, ...]) -> list[Step]:
    """What runs on the GPU: kernels beside the engines' making, everything that is timed alone."""
    results = arguments.out / "results"

    def step(name: str, words: Sequence[str], limit: float, needs: tuple[str, ...], alone: bool = True) -> Step:
        made = results / f"{name.replace(' ', '-')}.json"
        return Step(name, (sys.executable, STEPS, words[0], str(made), *words[1:]), limit, needs, made, alone)

    cache = ("--cache", str(arguments.out / "cache"))
    steps = [step("kernels", ("kernels", *cache), 180, ready, alone=False)]
    for engine in engines:
        made_here = engine.parent == arguments.out / "engines"
        needs = (f"engine {engine.stem}",) if made_here else ready
        # First: the policy then runs the tactics that were chosen.
        steps.append(step(f"tune {engine.stem}", ("tune", "--engine", str(engine)), 60, needs))
        steps.append(step(f"policy {engine.stem}", ("policy", "--engine", str(engine)), 90, needs))
    steps.append(step("pytorch eager", ("pytorch", "--runs", "50"), 90, ready))
    steps.append(step("pytorch compile", ("pytorch", "--runs", "50", "--compile"), 200, ready))
    return steps


def find_gpu() -> GpuFacts:
    """The GPU to check. Raises `GpuError` in one line."""
    with Gpu() as gpu:
        facts = gpu.facts()
    if facts.target not in TARGETS:
        raise GpuError(f"GPU {facts.name!r} is {facts.target}: kernels are made for {', '.join(TARGETS)}")
    return facts


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu-check"), help="folder of everything made")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first; then nothing is downloaded")
    parser.add_argument("--engine", type=Path, action="append", default=[], help="an engine file with machine code")
    parser.add_argument("--seconds", type=float, default=480, help="time for all of it")
    arguments = parser.parse_args(words)
    arguments.out = arguments.out.absolute()
    names = ["nano-f32", *(f"{size}-{precision}" for size, precision in RANDOM)]
    for engine in arguments.engine:
        if engine.stem in names:  # of steps and results
            parser.error(f"--engine {engine}: another engine of this check is named {engine.stem!r}; rename the file")
        names.append(engine.stem)
    return arguments


def main() -> int:
    arguments = parse()
    deadline = time.monotonic() + arguments.seconds
    try:
        facts = find_gpu()
    except GpuError as error:
        print(f"gpu_check: {error}: run this on a machine with an NVIDIA GPU and its driver", file=sys.stderr)
        return 2
    print(f"{facts.name}, {facts.target}, {facts.memory_bytes / 1e9:.0f} GB, CUDA {facts.driver}", flush=True)
    site = arguments.out / "site"
    folders = (site, ROOT / "benchmarks", ROOT / "tests" / "python")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    check = Check(arguments.out, deadline, environment)
    for folder in ("engines", "results"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    for old in (arguments.out / "results").glob("*.json"):
        old.unlink()
    builds = build_steps(arguments, site)
    for step in builds:
        check.run(step)
    ready = tuple(step.name for step in builds)
    makers, engines = engine_steps(arguments, facts.target, ready)
    steps = [*makers, *measuring_steps(arguments, engines, ready)]
    check.run_all(steps)
    outcomes = [asdict(check.outcomes[step.name]) for step in (*builds, *steps)]
    results = {step.name: read_result(step.makes) for step in steps if step.makes and step.makes.suffix == ".json"}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
               "system": platform.platform()}  # fmt: skip
    write_report(arguments.out, {"gpu": asdict(facts), "machine": machine, "steps": outcomes, "results": results})
    return 0 if all(outcome["state"] == "done" for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
