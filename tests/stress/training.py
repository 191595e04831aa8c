# SPDX-License-Identifier: Apache-2.0
"""Ends a training at random moments and resumes it; the weights must be, bit for bit, those of a run in one go.

    python tests/stress/training.py kill --count 20
    python tests/stress/training.py term --count 20
    python tests/stress/training.py full --count 20

kill: SIGKILL, saves included. term: SIGTERM, which is saved for and then ends the process. full: the disk fills up in
the middle of a save (a limit on the size of files), which must be one line of status 2 and lose no earlier save.
A run trains a tiny policy with averaged weights on noise of the global generators, and saves often. Its processes are
forked from one that has imported everything and computed nothing.
tests/python/train/test_stopping.py runs a few of each.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

import torch
import torch._dynamo  # the optimizer would import it, in every process

from helpers.model_tiny import build, example_batch, tiny
from lightwam.errors import LightWAMError
from lightwam.identity import Fingerprint
from lightwam.model.checkpoint_folder import save_checkpoint
from lightwam.train import TrainStep
from lightwam.train.run_folder import Keep, RunFolder, saves_of
from lightwam.train.state import TrainingState, random_state, restore_random_state, seed_rank
from lightwam.train.stopping import stop_requests

WAYS = ("kill", "term", "full")
STEPS, EVERY = 12, 2
FINGERPRINT: Fingerprint = {"seed": 0}


def live(out: Path) -> int:
    """One process of the run: to the end, or until it is stopped. Prints the step that it goes on from, and "loop"."""
    try:
        with RunFolder(out, "policy", FINGERPRINT, keep=Keep(last=2)) as folder:
            _train(folder)
    except LightWAMError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _train(folder: RunFolder) -> None:
    seed_rank(0, 0)
    model = build(tiny())
    step = TrainStep(model, learning_rate=1e-3, weight_decay=0.01, warmup_steps=2, max_steps=STEPS, max_grad_norm=1.0,
                     ema_decay=0.9)  # fmt: skip
    state = folder.resume()
    if state is not None:
        step.load(state)
        restore_random_state(state.rng[0])
    print(step.step_count, flush=True)
    with stop_requests() as stop:
        print("loop", flush=True)
        while step.step_count < STEPS and not stop.signal:
            batch = {name: value.clone() for name, value in example_batch(model).items()}
            batch["action"] += torch.randn(()) + random.random()  # of the global generators, whose state is saved
            step.step([batch])
            if step.step_count % EVERY == 0 or stop.signal:
                weights = step.full_weights()
                save = dataclasses.replace(step.state(), rng=[random_state()])
                folder.save(save, lambda path: save_checkpoint(path, model.config, weights))  # noqa: B023


@dataclass
class Life:
    """A process of a run, and what it writes on standard error."""

    process: int
    text: Path

    def wait(self) -> int:
        """How it ended: its status, or minus its signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def start(out: Path, largest: int | None = None) -> Life:
    """A process of the run, once its loop has begun. `largest`: no file of it may have more bytes."""
    text = out.parent / "errors.txt"
    reading, writing = os.pipe()
    sys.stdout.flush()  # else the child writes it, too
    process = os.fork()
    if process == 0:
        status = 99
        try:
            os.dup2(writing, 1)
            os.close(reading)
            os.close(writing)
            os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            if largest is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes then fail, as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            status = live(out)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with open(reading) as said:
        said.readline()
        said.readline()
    return Life(process, text)


def final(out: Path) -> TrainingState:
    """The state of the last step."""
    newest = saves_of(out)[-1]
    assert newest.step == STEPS, newest
    return TrainingState.read(newest.folder / "state.pt")


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def whole_run(out: Path) -> float:
    """A run to its end; the seconds of its loop."""
    life, began = start(out), time.monotonic()
    assert life.wait() == 0, life.text.read_text()
    return time.monotonic() - began


def interrupt(way: str, out: Path, seconds: float) -> str:
    """Start a process of the run and end it at a random moment; what was wrong, or how it ended."""
    before = saves_of(out)
    # A save has files of some 40 kB and 200 kB.
    life = start(out, random.randrange(5_000, 250_000) if way == "full" else None)
    if way != "full":
        time.sleep(random.uniform(0, seconds))
        os.kill(life.process, signal.SIGKILL if way == "kill" else signal.SIGTERM)
    status, after = life.wait(), saves_of(out)
    if before and (not after or after[-1].step < before[-1].step):
        return "A SAVE WAS LOST"
    if status == 0:
        return "came to its end"
    wanted = {"kill": -signal.SIGKILL, "term": -signal.SIGTERM, "full": 2}[way]
    lines = life.text.read_text().strip().split("\n")
    told = way != "full" or (lines[-1].startswith("RunFolderError: step ") and len(lines) == 1)
    return "ended" if status == wanted and told else f"STATUS {status}: {lines[-5:]}"


def run(way: str, count: int, folder: Path, seconds: float) -> Counter[str]:
    """`count` interruptions, over as many runs as they take; how they ended. Each run is then finished and compared.

    folder: has the run in one go, whose loop took so many seconds.
    """
    wanted = final(folder / "whole")
    found: Counter[str] = Counter()
    runs = 0
    while count > 0:
        out, runs = folder / f"{way}{runs}", runs + 1
        for _ in range(min(count, 4)):
            found[interrupt(way, out, seconds / 3)] += 1
            count -= 1
        whole_run(out)
        links = {path.name for path in out.iterdir()} == {".lock", "checkpoint", "run.json", "saves"}
        kept = len(list((out / "saves").iterdir())) == 2
        found["same weights" if same(vars(final(out)), vars(wanted)) else "OTHER WEIGHTS"] += 1
        found["folder as it should be" if links and kept else f"FOLDER {sorted(os.listdir(out))}"] += 1
    return found


GOOD = {"ended", "came to its end", "same weights", "folder as it should be"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "term", "full", "all", "live"))
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        seconds = whole_run(Path(folder) / "whole")
        for way in WAYS if arguments.what == "all" else (arguments.what,):
            began = time.monotonic()
            found = run(way, arguments.count, Path(folder), seconds)
            print(f"{arguments.count} x {way} in {time.monotonic() - began:.0f} s: {dict(found)}")
            good &= set(found) <= GOOD
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
