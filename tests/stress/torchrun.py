# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny policy under torchrun on CPUs, through the command line, and ends one of its processes.

    python tests/stress/torchrun.py same --work FOLDER
    python tests/stress/torchrun.py dies --work FOLDER

same: two processes (DDP, FSDP2; with a video pass and without one) have the losses and validation figures of one
process within 1e-4. dies: a process gets SIGKILL; the run must end with one line of ours and a status that is not 0,
and the same command must then train to the end. FOLDER keeps the made-up data and the runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from helpers.commands import children
from helpers.training import fill
from lightwam.train.run_folder import saves_of
from lightwam.train.state import TrainingState

SOURCES = str(Path(__file__).parents[2] / "python")
STEPS = 3  # within the first epoch: with several processes its end is another one


def words(work: Path, out: Path, *options: str) -> list[str]:
    """`train policy` from what `fill` made."""
    made = {"--config": "tiny.json", "--data": "data", "--cache": "cache", "--vae": "vae/checkpoint"}
    inputs = [word for name, place in made.items() for word in (name, str(work / "training" / place))]
    numbers = ["--steps", str(STEPS), "--batch", "2", "--precision", "float32", "--held-out", "0.3", "--log-every", "1",
               "--save-every", "100", "--future-stride", "2", "--warmup-steps", "2"]  # fmt: skip
    return ["train", "policy", *inputs, "--out", str(out), "--no-check", *numbers, *options]


def start(words: list[str], processes: int, log: Path) -> subprocess.Popen[bytes]:
    """One process, or torchrun with several; what they print goes to the log."""
    environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    module = [sys.executable, "-m"]
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [*module, *(several if processes > 1 else []), "lightwam.cli", *words]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def train(work: Path, name: str, processes: int, *options: str) -> TrainingState:
    """A run to its end; its last save."""
    out, log = work / name, work / f"{name}.log"
    status = start(words(work, out, *options), processes, log).wait()
    assert status == 0, f"status {status}: {log}"
    return TrainingState.read(out / f"saves/step_{STEPS:08d}/state.pt")


def same(work: Path) -> None:
    """Two processes as one."""
    for futures in ("1", "0"):
        one = train(work, f"one-{futures}", 1, "--accumulation", "2", "--video-batch", futures)
        for sharding in ("ddp", "fsdp"):
            two = train(work, f"{sharding}-{futures}", 2, "--video-batch", futures, "--sharding", sharding)
            figures = [name for name in one.history if name not in ("seconds_a_step", "samples_per_second")]
            assert {"loss", "grad_norm", "held_out/action_l1"} <= set(figures)
            pairs = [pair for name in figures for pair in zip(one.history[name], two.history[name], strict=True)]
            worst = max(abs(b - a) / max(abs(a), 1e-6) for (_, a), (_, b) in pairs)
            print(f"{sharding}, --video-batch {futures}: {len(pairs)} figures differ by at most {worst:.1e}")
            assert worst < 1e-4


def dies(work: Path) -> None:
    """A process is killed in the middle of the training."""
    out, log = work / "dies", work / "dies.log"
    many = words(work, out, "--steps", "100000", "--log-every", "1", "--save-every", "5", "--eval-every", "0")
    launcher = start(many, 2, log)
    while "step 6 " not in log.read_text():
        assert launcher.poll() is None, log
        time.sleep(1)
    os.kill(max(children(launcher.pid)), signal.SIGKILL)
    began, status = time.monotonic(), launcher.wait(300)
    ours = [line for line in log.read_text().splitlines() if line.startswith("lightwam train policy:")]
    print(f"ended after {time.monotonic() - began:.0f} s with status {status}: {ours}")
    assert status != 0 and len(ours) <= 1
    saved = max(save.step for save in saves_of(out))
    few = [*many, "--stop-after", str(saved + 3)]
    assert start(few, 2, work / "again.log").wait() == 0
    assert f"going on after update {saved}\n" in (work / "again.log").read_text()
    assert max(save.step for save in saves_of(out)) == saved + 3
    print(f"the same command went on after update {saved}")


def main() -> int:
    """Run a leg."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("leg", choices=("same", "dies"))
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    work = args.work.absolute()
    if not (work / "training").exists():
        (work / "training").mkdir(parents=True)
        fill(work / "training")
    {"same": same, "dies": dies}[args.leg](work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
