# SPDX-License-Identifier: Apache-2.0
"""Trials in a simulator while a policy trains: their options, and how the training processes wait for them.

Who makes the trials is a hook, because training knows no simulator: `lightwam train policy` gives one that exports the
averaged weights and drives the simulator, each in a process of its own. A rollout that fails is a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError, DistributedError
from lightwam.train.distributed import World
from lightwam.train.stopping import StopRequest

log = logging.getLogger(__name__)

FOLDER = "rollouts"
"""In the run's folder: reports of rollouts, and what their processes print."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Trials in a simulator while training, on the CPUs of the first process's machine. Training waits for them."""

    rollout_every: int = 0
    """Updates between rollouts; 0: never. With --keep-best rollout/success a multiple of --save-every."""
    rollout_trials: int = 10
    """Trials a task."""
    rollout_sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    rollout_suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    rollout_tasks: tuple[int, ...] | None = None
    """Tasks of the suite (default: the simulator's; 0 in LIBERO)."""
    rollout_states: str = "official"
    """Kind of start states: official or shifted."""
    rollout_protocol: str | None = None
    """Evaluation protocol (default: the simulator's first)."""
    rollout_precision: Literal["f32", "bf16", "f16"] = "f32"
    """What the exported policy computes in."""
    rollout_threads: int | None = None
    """CPU threads of the policy; one per CPU when absent."""
    rollout_minutes: float = 60.0
    """A rollout that takes longer is ended, with a warning."""
    rollout_videos: bool = False
    """Keep one mp4 a trial."""


class Simulate(Protocol):
    """Makes the trials; called in the first process alone."""

    def check(self, config: LightWAMConfig) -> Collection[str]:
        """The instructions of the trials; before the first update.

        Raises `LightWAMError`: the options make no trials, or the policy does not fit the simulator.
        """
        ...

    def __call__(
        self, step: int, write_checkpoint: Callable[[Path], object], out: Path, tick: Callable[[], object]
    ) -> Mapping[str, float]:
        """Figures by name, `rollout/success` among them, of the policy after `step` updates.

        Args:
            write_checkpoint: writes the policy's checkpoint folder to the path that it gets.
            out: folder for reports.
            tick: to be called about once a second; what it raises ends the trials and must go on to the caller.
        """
        ...


class _Ended(Exception):
    """The training wants to end, or the rollout takes too long."""


def check_rollouts(rollouts: Rollouts, simulate: Simulate | None, config: LightWAMConfig) -> Collection[str]:
    """The instructions of the trials; none where there are no rollouts. Raises `LightWAMError` for bad options."""
    if not rollouts.rollout_every:
        return ()
    if simulate is None:
        raise ConfigError(f"--rollout-every is {rollouts.rollout_every} and no simulator is given: call train_policy "
                          "with `simulate`, or use `lightwam train policy`")  # fmt: skip
    log.info("looking whether %s can make the trials of rollouts", rollouts.rollout_sim)
    return simulate.check(config)


def check_instructions(wanted: Collection[str], known: Collection[str]) -> None:
    """Raise `ConfigError` where a policy without a text encoder of its own gets an instruction that no data has."""
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise ConfigError(
            f"rollouts give the instruction {missing[0]!r}, which no data set has, and this policy knows the "
            "instructions of its data alone: choose other --rollout-tasks"
        )


def roll_out(
    world: World, stop: StopRequest, minutes: float, make: Callable[[Callable[[], object]], Mapping[str, float]]
) -> dict[str, float]:
    """What `make(tick)` returns in the first process; nothing in the others, which wait for it, and where it fails.

    A signal in any process ends it. Raises `DistributedError`.
    """
    waiting, done = 0, 2

    def wanted() -> int:
        return world.agree(1 if stop.signal else waiting)

    if not world.is_first:
        while wanted() != done:
            pass
        return {}
    began = time.monotonic()

    def tick() -> None:
        if wanted():
            raise _Ended("the training is to end")
        if time.monotonic() > began + 60 * minutes:
            raise _Ended(f"it took longer than --rollout-minutes {minutes:g}")

    try:
        return dict(make(tick))
    except DistributedError:
        raise
    except Exception as error:  # whatever a simulator raises: the training goes on
        kind = "" if isinstance(error, _Ended) else f"{type(error).__name__}: "
        log.warning("no rollout: %s%s", kind, " ".join(str(error).split()) or "it failed")
        return {}
    finally:
        world.agree(done)
