# SPDX-License-Identifier: Apache-2.0
"""What a simulator is: the Protocols that evaluation, demo, recording and baselines are written against.

A simulator subclasses `Simulator` (its tasks and figures) and `SimulatorEnv` (one running task) and has a line in
`lightwam.sim.registry`; what is not abstract here is a default. No other module knows which simulator it drives.

Legend: S start states of a task, N numbers of a start state, A action width, P state width, H W image size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lightwam.config.robot import RobotConfig
from lightwam.data.episode_files import Episode
from lightwam.errors import ConfigError, SimulatorError
from lightwam.runtime import Observation
from lightwam.sim.policies import PolicyLike

Array = npt.NDArray[Any]

STATES = ("official", "shifted")  # kinds of start states
_EVERY_SUITE = "*"  # in a protocol's limits


@dataclass(frozen=True)
class Task:
    """One task: number `index` (from 0) of `suite`. `instruction` is what a policy reads."""

    suite: str
    index: int
    name: str
    instruction: str


@dataclass(frozen=True)
class Suite:
    """A suite as `lightwam eval --list-suites` shows it. `fault`: why it cannot run, empty where it can."""

    name: str
    tasks: int
    fault: str = ""


@dataclass(frozen=True)
class Faithful:
    """The versions with which a simulator gives the results that others publish."""

    versions: Mapping[str, str]  # of distributions
    changes: str  # what other versions change, as the end of a sentence
    required: bool  # whether others are refused unless they are asked for


@dataclass(frozen=True)
class Sign:
    """Figures that tell a faithful simulator from another one."""

    name: str
    measured: tuple[float, ...]
    faithful: tuple[float, ...]
    tolerance: float  # of each figure

    def holds(self) -> bool:
        """Whether what was measured is faithful."""
        return all(abs(m - f) <= self.tolerance for m, f in zip(self.measured, self.faithful, strict=True))


@dataclass(frozen=True)
class Decision:
    """One action of a scripted expert, float64 [A], and the phase of the task that it belongs to."""

    action: Array
    phase: str


class Expert(Protocol):
    """A scripted expert that solves its environment's task from any state; it may read privileged state."""

    @abstractmethod
    def decide(self) -> Decision:
        """The action for the simulator's present state, without noise."""


class Recorder(Protocol):
    """Records episodes of one environment."""

    @abstractmethod
    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        """One episode from a random start drawn from `rng`; None where the attempt failed and another is due."""

    def close(self) -> None:
        """Free what it records in; by default there is nothing to free."""


@dataclass(frozen=True)
class Recording:
    """What `lightwam record` must know of a simulator whose environments have a recorder."""

    robot_type: str  # as data sets name it
    row_hz: int  # recorded rows a second
    placements: tuple[str, ...]  # how far objects are moved from their usual places, the default first
    clip_kinds: Mapping[str, float]  # short clips beside whole episodes ("full"): kind -> share; {} for none
    targets: tuple[str, ...] = ("goal",)  # what may be commanded: the task's goal; "any": another object of the scene


@dataclass(frozen=True)
class EvaluationProtocol:
    """How an evaluation runs. Figures of two protocols differ. Steps are control steps."""

    name: str
    trials: int  # a task
    settle_steps: int  # standing still with an open gripper before the policy starts
    replan_steps: int | None  # most actions executed of a chunk; None: as many as the policy chooses
    max_steps: Mapping[str, int]  # a suite
    seed: int  # of trial 0; trial i has seed + i
    states: str = "official"  # one of STATES
    source: str = ""  # whose figures it makes comparable

    def changed(self, **values: int | str | None) -> EvaluationProtocol:
        """The protocol with other values; its name says so. None leaves a value; max_steps is of every suite."""
        given = {name: value for name, value in values.items() if value is not None}
        if not given:
            return self
        for name, value in given.items():
            if name == "states" and value not in STATES:
                raise ConfigError(f"unknown states {value!r}: choose one of {', '.join(STATES)}")
            least = 0 if name in ("settle_steps", "seed") else 1
            if isinstance(value, int) and value < least:
                raise ConfigError(f"{name} is {value}: at least {least}")
        told = ", ".join(f"{name} {value}" for name, value in given.items() if name not in ("states", "trials"))
        name = f"{self.name} with {told}" if told else self.name
        steps = given.pop("max_steps", None)
        limits = self.max_steps if steps is None else {_EVERY_SUITE: steps}
        return replace(self, name=name, max_steps=limits, **given)  # type: ignore[arg-type]

    def as_json(self) -> dict[str, Any]:
        """The values by name, as reports keep them."""
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "max_steps": dict(self.max_steps)}

    def steps_to_execute(self, policy_steps: int) -> int:
        """Actions executed of every chunk: the policy's own number, at most the protocol's."""
        return policy_steps if self.replan_steps is None else min(policy_steps, self.replan_steps)

    def step_limit(self, suite: str) -> int:
        """Most control steps of a trial after settling; `libero_goal_swap` has that of `libero_goal`.

        Raises ConfigError for a suite without a limit.
        """
        known = [name for name in self.max_steps if f"{suite}_".startswith(f"{name}_") or name == _EVERY_SUITE]
        if not known:
            told = f"protocol {self.name!r} has no step limit for {suite!r}: known are {list(self.max_steps)}"
            raise ConfigError(f"{told}; give --max-steps")
        return self.max_steps[max(known, key=len)]


class SimulatorEnv(Protocol):
    """One running environment of one task. A control step takes 1 / robot.control_hz seconds of simulated time."""

    task: Task

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed what `reset` draws. Trials call it before each reset, so that none depends on those before it."""

    def begin_trial(self, index: int) -> None:
        """Trial `index` comes: what follows (starts, instruction, frames) is of it. Default: nothing depends on it."""
        return None

    def instruction(self) -> str:
        """What a policy reads in this trial. Default: the task's."""
        return self.task.instruction

    @abstractmethod
    def reset(self) -> None:
        """Begin an episode; `set_state` follows where a trial needs a certain start."""

    @abstractmethod
    def official_states(self) -> Array:
        """The task's published starts, float64 [S, N]: whatever numbers bring `set_state` to them."""

    def shifted_state(self, official_N: Array, index: int) -> Array:
        """Official start `index` [N] with its objects moved further than the official starts vary; the same each time.

        Raises SimulatorError where the simulator has none.
        """
        raise SimulatorError(f"task {self.task.name!r} has no shifted states: choose --states official")

    def posed_state(self, state_N: Array, rng: np.random.Generator, spread: float) -> Array:
        """Start [N] with the robot's joints moved by normal noise of so many radians, at most twice that.

        Raises SimulatorError where the simulator cannot.
        """
        raise SimulatorError(f"task {self.task.name!r} has no robot joints to move: leave out --perturb joints")

    def move_cameras(self, metres: Array, radians: Array) -> None:
        """Move the cameras that stand still by [3] and turn them by the rotation vector [3], from their usual place.

        Raises SimulatorError where the simulator cannot.
        """
        raise SimulatorError(f"task {self.task.name!r} has no camera to move: leave out --perturb camera")

    @abstractmethod
    def set_state(self, state_N: Array) -> None:
        """Bring the simulator into a start state [N]. Raises SimulatorError for another shape."""

    @abstractmethod
    def settle(self, steps: int, *, render_last: bool = True) -> None:
        """`steps` control steps that stand still with an open gripper; the last one renders unless told not to."""

    @abstractmethod
    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        """One control step; True when the task is solved. Cameras render only if `render` (it is most of the time).

        Raises SimulatorError where the action is not [A] finite numbers.
        """

    @abstractmethod
    def observation(self) -> Observation:
        """Camera images uint8 RGB [H, W, 3] as the data sets of this simulator store them, and the state, float32 [P].

        Raises SimulatorError where the last step did not render.
        """

    def picture(self) -> Array:
        """What a person sees in a video, uint8 RGB [H, W, 3]; H and W even. Default: the cameras side by side."""
        return np.concatenate(list(self.observation()["images"].values()), axis=1)

    @abstractmethod
    def succeeded(self) -> bool:
        """True while the task's goal holds."""

    @abstractmethod
    def close(self) -> None:
        """Free the simulator and its renderer."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells this environment's physics and frames from those of other versions: plain values by name.

        Results keep it. `seed` and `reset` must follow before an episode. Default: nothing.
        """
        return {}

    def expert(self) -> Expert:
        """A scripted expert in the present episode. Raises SimulatorError where the task has none."""
        raise SimulatorError(f"task {self.task.name!r} has no scripted expert: it can be evaluated, not recorded")

    def recorder(self, placements: str, policy: PolicyLike | None, targets: str = "goal") -> Recorder:
        """What records here: the expert, or with `policy` its corrections of that policy. Raises as `expert`.

        placements, targets: of the simulator's `Recording`; only "goal" is passed where it has nothing else.
        """
        raise SimulatorError(f"task {self.task.name!r} has no recorder: it can be evaluated, not recorded")


class Simulator(Protocol):
    """The tasks of one simulator, and what reports and defaults must know of it. Cheap to make: it imports nothing."""

    name: str
    suites: tuple[str, ...]
    default_task: tuple[str, int]  # suite and index that demo, eval and record choose by themselves
    protocols: Mapping[str, EvaluationProtocol]  # the default first
    robot: RobotConfig  # cameras, widths, control rate, gripper
    packages: tuple[str, ...]  # distributions whose versions decide results
    recording: Recording | None = None  # None: `lightwam record` is an error
    faithful: Faithful | None = None  # None: no version is more so than another

    @abstractmethod
    def tasks(self, suite: str) -> Sequence[Task]:
        """All tasks of one of `suites`."""

    def more_suites(self) -> Sequence[str]:
        """Suites beyond `suites` that the installed package knows; `tasks` takes them too. Default: none."""
        return ()

    def list_suites(self) -> Iterator[Suite]:
        """All suites, and why some cannot run."""
        for name in (*self.suites, *self.more_suites()):
            try:
                yield Suite(name, len(self.tasks(name)))
            except SimulatorError as error:
                yield Suite(name, 0, str(error))

    @abstractmethod
    def make_env(
        self, task: Task, *, image_size: int = 256, render: bool = True, start_noise: bool = False
    ) -> SimulatorEnv:
        """A new environment of `task`.

        render=False: physics only, no image. start_noise=True: `reset` varies the robot's start pose, for recordings.
        Raises SimulatorError where the simulator or its renderer is missing.
        """

    @abstractmethod
    def renderer(self) -> str | None:
        """What renders, as reports name it."""

    def check_recording(self, task: Task, clips: bool) -> None:
        """Whether `lightwam record` can record a task, asked before anything is built. Default: it can.

        clips: short ones too. Raises SimulatorError with the reason where it cannot.
        """
        return None

    def signs(self) -> Sequence[Sign]:
        """Measures what `lightwam eval --check-simulator` prints; takes seconds. Default: nothing."""
        return ()

    def protocol(self, name: str | None) -> EvaluationProtocol:
        """The evaluation protocol `name`, or the default one. Raises ConfigError where there is none."""
        if name is not None and name not in self.protocols:
            raise ConfigError(f"unknown protocol {name!r}: choose one of {', '.join(self.protocols)}")
        return self.protocols[name or next(iter(self.protocols))]

    def task(self, suite: str | None, index: int | None) -> Task:
        """Task `index` (from 0) of `suite`; None: those of `default_task`. Raises SimulatorError for an unknown one."""
        suite = suite or self.default_task[0]
        index = self.default_task[1] if index is None else index
        if suite not in self.suites and suite not in self.more_suites():
            known = ", ".join(self.suites) + (", or one of `lightwam eval --list-suites`" if self.more_suites() else "")
            raise SimulatorError(f"unknown {self.name} suite {suite!r}: choose one of {known}")
        tasks = self.tasks(suite)
        if not 0 <= index < len(tasks):
            raise SimulatorError(f"{suite} has no task {index}: choose 0 to {len(tasks) - 1}")
        return tasks[index]
