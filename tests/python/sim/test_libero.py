# SPDX-License-Identifier: Apache-2.0
"""LIBERO: environment, placements, expert and recordings, on the real simulator; almost all without rendering."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from lightwam.errors import ConfigError, SimulatorError
from lightwam.reproduce.plan import read_plan
from lightwam.sim.closed_loop import start_state
from lightwam.sim.libero.env import CAMERAS, LiberoEnv, load_tasks
from lightwam.sim.libero.placements import SHIFTED, WIDE, random_state, region_centres
from lightwam.sim.libero.simulator import Libero, LiberoTaskEnv
from lightwam.sim.libero.targets import GAP, REACH, commands, draw_target, exchanged_state
from lightwam.sim.perturb import Perturbed, perturbed
from lightwam.sim.record import recording_of

LIBERO = Libero()


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoTaskEnv]:
    """The environment that almost all tests share; each brings it to the state that it needs."""
    env = LIBERO.make_env(LIBERO.task(None, None), image_size=64, start_noise=True)
    env.reset()
    yield env
    env.close()


def test_tasks_have_their_official_names_and_states(env: LiberoTaskEnv) -> None:
    tasks = LIBERO.tasks("libero_object")
    assert len(tasks) == 10 and tasks[0] == LIBERO.task(None, None)
    assert tasks[0].instruction == "pick up the alphabet soup and place it in the basket"
    states = env.official_states()
    assert states.shape[0] == 50 and states.dtype == np.float64 and np.isfinite(states).all()


def test_unknown_suites_and_tasks() -> None:
    with pytest.raises(SimulatorError, match="libero_spatial, libero_object"):
        LIBERO.task("libero_moon", 0)
    with pytest.raises(SimulatorError, match="choose 0 to 9"):
        LIBERO.task("libero_object", 10)


def test_suites_of_the_package() -> None:
    """LIBERO-PRO's: instructions are those of the task files; a suite without files is refused by name."""
    assert {"libero_object_swap", "libero_goal_lan", "libero_10_with_mug"} <= set(LIBERO.more_suites())
    assert LIBERO.task("libero_object_lan", 0).instruction == "grab alphabet soup and put it into basket"
    assert LIBERO.task("libero_object_swap", 0).instruction == LIBERO.task("libero_object", 0).instruction
    limits = LIBERO.protocol("openpi")
    assert [limits.step_limit(suite) for suite in ("libero_10_swap", "libero_object_lan")] == [520, 280]
    with pytest.raises(SimulatorError, match="10 of 10 task files are missing"):
        LIBERO.task("libero_object_env", 0)


def test_cameras_and_joints_move_and_come_back(env: LiberoTaskEnv) -> None:
    state = env.official_states()[0]

    def seen(perturbation: str) -> dict[str, np.ndarray]:
        outer = perturbed(env, perturbation)
        outer.begin_trial(0)
        outer.seed(0)
        outer.reset()
        outer.set_state(state)
        outer.settle(1)
        images = dict(outer.observation()["images"])
        if isinstance(outer, Perturbed):
            outer.leave()
        return images

    plain, moved, again = seen("none"), seen("camera:1"), seen("none")
    assert (moved["agentview"] != plain["agentview"]).mean() > 0.2
    for camera, image in plain.items():
        np.testing.assert_array_equal(image, again[camera])
    np.testing.assert_array_equal(moved["wrist"], plain["wrist"])
    posed = env.posed_state(state, np.random.default_rng(0), 0.05)
    assert np.flatnonzero(posed != state).tolist() == list(range(1, 8)) and np.abs(posed - state).max() <= 0.1


def test_the_adapter_does_not_import_torch() -> None:
    code = "import sys; from lightwam.cli import demo, eval, record, train_replay; "
    code += "from lightwam.sim.registry import load_simulator; load_simulator('libero').task(None, None); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_bad_states_actions_and_reading_unrendered_images(env: LiberoTaskEnv) -> None:
    with pytest.raises(SimulatorError, match=r"\(3,\)"):
        env.set_state(np.zeros(3))
    with pytest.raises(SimulatorError, match="7 finite numbers"):
        env.step(np.zeros(6))
    with pytest.raises(SimulatorError, match="7 finite numbers"):
        env.step([0, 0, 0, 0, 0, np.nan, -1])
    env.step(np.zeros(7))
    with pytest.raises(SimulatorError, match="did not render"):
        env.images()


def test_shifted_states_are_reproducible_and_bounded(env: LiberoTaskEnv) -> None:
    official = env.official_states()
    target, place = env.goal_objects()
    assert (target, place) == ("alphabet_soup_1", "basket_1")
    moves = []
    for index in range(20):
        state = env.shifted_state(official[index], index)
        np.testing.assert_array_equal(state, start_state(env, official, index, "shifted"))
        moved = np.flatnonzero(state != official[index])
        allowed = {}
        for name in env.raw.objects_dict:
            limit = {target: SHIFTED.target, place: SHIFTED.place}.get(name, SHIFTED.others)
            address = env.position_address(name)
            allowed |= {address: limit, address + 1: limit}
        assert set(moved) == set(allowed)
        assert all(abs(state[a] - official[index][a]) <= limit for a, limit in allowed.items())
        address = env.position_address(target)
        moves.append((state - official[index])[address : address + 2])
        first_draws = np.random.default_rng(777 + index).uniform(-0.04, 0.04, size=2)
        np.testing.assert_allclose(moves[-1], first_draws)
    assert np.ptp(moves, axis=0).min() > 0.05


def test_recordings_start_wider_than_the_shifted_states_and_never_officially(env: LiberoTaskEnv) -> None:
    assert WIDE.target > SHIFTED.target and WIDE.place > SHIFTED.place and WIDE.others > SHIFTED.others
    centre = region_centres(env)["alphabet_soup_1"]
    np.testing.assert_allclose(centre, [-0.12, -0.24], atol=1e-6)
    official = env.official_states()
    address = env.position_address("alphabet_soup_1")
    starts = np.array([random_state(env, np.random.default_rng(seed)) for seed in range(8)])
    assert not any(np.array_equal(start, state) for start in starts for state in official)
    assert (np.abs(starts[:, address : address + 2] - centre) <= WIDE.target + 1e-9).all()
    assert len(np.unique(starts[:, 1])) == 8  # the arm's first joint carries noise
    again = random_state(env, np.random.default_rng(3))
    np.testing.assert_array_equal(again, starts[3])


def test_any_object_of_the_scene_can_be_commanded(env: LiberoTaskEnv) -> None:
    """The instruction is the suite's own; where objects stand does not depend on what is commanded."""
    own = env.task
    found = commands(env)
    assert len(found) == 6 and next(iter(found)) == "alphabet_soup_1"
    assert found["cream_cheese_1"] == LIBERO.task("libero_object", 1).instruction
    rng = np.random.default_rng(0)
    drawn = [draw_target(list(found), rng) for _ in range(400)]
    assert set(drawn) == set(found) and 120 < drawn.count("alphabet_soup_1") < 200
    try:
        starts = [exchanged_state(env, np.random.default_rng(seed), WIDE) for seed in range(6)]
        env.command("milk_1", found["milk_1"])
        assert env.task.instruction == "pick up the milk and place it in the basket" and env.task.name == own.name
        assert env.goal_objects() == ("milk_1", "basket_1") and env.expert().target == "milk_1"  # type: ignore[attr-defined]
        again = [exchanged_state(env, np.random.default_rng(seed), WIDE) for seed in range(6)]
        np.testing.assert_array_equal(starts, again)
        assert not any(np.array_equal(first, second) for first, second in pairwise(starts))
        addresses = np.array([env.position_address(name) for name in found])
        for start in starts:
            xy = np.stack([start[addresses], start[addresses + 1]], axis=1)
            apart = np.linalg.norm(xy[:, None] - xy, axis=-1) + np.eye(6)
            assert apart.min() > 0.06 + GAP  # no object is narrower than 6 cm corner to corner
            assert np.linalg.norm(xy - env.raw.robots[0].base_pos[:2], axis=1).max() <= REACH
        assert np.ptp([start[addresses[0] + 1] for start in starts]) > 0.13  # the soup stands at others' places
        env.set_state(starts[0])
        assert not env.succeeded()
        place, basket = env.position_address("milk_1"), env.position_address("basket_1")
        starts[0][place : place + 3] = starts[0][basket : basket + 3] + np.array([0, 0, 0.05])
        env.set_state(starts[0])
        assert env.succeeded()
    finally:
        env.command("alphabet_soup_1", own.instruction)
    with pytest.raises(ConfigError, match="choose one of goal, any"):
        recording_of(LIBERO, None, "all")


def test_the_wrist_turns_back_the_way_it_came(env: LiberoTaskEnv) -> None:
    """A quarter turn from the usual yaw both ways are as long; one of them ends at the joint's limit (2.9)."""
    env.reset()
    start = env.get_state()
    address = 1 + int(env.raw.robots[0]._ref_joint_pos_indexes[-1])
    usual = start[address]
    for turned, sign in ((1.5, 1), (1.64, 1), (-1.5, -1), (-1.64, -1)):
        start[address] = usual + turned
        env.set_state(start)
        assert np.sign(env.expert().upright_action(np.zeros(3), -1.0)[5]) == sign  # type: ignore[attr-defined]


def test_the_expert_solves_a_shifted_state_and_recovers_from_an_empty_grasp(env: LiberoTaskEnv) -> None:
    official = env.official_states()
    env.reset()
    env.set_state(env.shifted_state(official[1], 1))
    env.settle(10, render_last=False)
    expert = env.expert()
    phases: list[str] = []
    missed = False
    for _ in range(300):
        decision = expert.decide()
        phases.append(decision.phase)
        action = decision.action
        if decision.phase == "close" and not missed:  # close beside the object once
            missed = True
            for _ in range(10):
                env.step([1, 0, 0.1, 0, 0, 0, -1])
            for _ in range(8):
                env.step([0, 0, 0, 0, 0, 0, 1])
            assert not expert.holding()
            continue
        if env.step(action):
            break
    assert env.succeeded()
    assert {"approach", "descend", "close", "reopen", "lift", "carry", "lower", "release"} <= set(phases)


def test_a_soft_reset_is_as_good_as_a_hard_one(env: LiberoTaskEnv) -> None:
    official = env.official_states()
    """And physics are the same without a renderer."""
    hard = LiberoEnv(env.task, render=False, hard_reset=True, joint_noise=True)
    runs = []
    for one in (hard, env):
        rng = np.random.default_rng(0)
        for episode in range(2):
            one.seed(episode)
            one.reset()
            one.set_state(official[episode])
            states = []
            for _ in range(12):
                one.step(rng.uniform(-1, 1, 7))
                states.append(one.get_state())
        runs.append(np.array(states))
    np.testing.assert_array_equal(runs[0], runs[1])
    with pytest.raises(SimulatorError, match="render=True"):
        hard.step(np.zeros(7), render=True)
    hard.close()


def use_own_cameras(env: LiberoEnv) -> None:
    """Put the simulator's own sensors back, which render every step."""
    for camera in CAMERAS.values():
        gated = env.raw._observables[f"{camera}_image"]._sensor
        env.raw.modify_observable(f"{camera}_image", "sensor", gated.lightwam_inner)


def test_gated_images_are_the_simulators_own(env: LiberoTaskEnv) -> None:
    state = env.official_states()[0]
    runs = []
    for gated in (True, False):
        env.seed(0)
        env.reset()
        if not gated:
            use_own_cameras(env)
        env.set_state(state)
        rng = np.random.default_rng(0)
        seen = []
        for step in range(6):
            render = step % 3 == 2
            env.step(rng.uniform(-1, 1, 7), render=render)
            seen.append((env.robot_state(), env.images() if render else {}))
        runs.append(seen)
    for (our_state, ours), (their_state, theirs) in zip(*runs, strict=True):
        np.testing.assert_array_equal(our_state, their_state)
        for camera, image in ours.items():
            assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 5
            np.testing.assert_array_equal(image, theirs[camera])
    assert set(ours) == {"agentview", "wrist"}
    upright = [image[::-1, ::-1] for image in theirs.values()]
    np.testing.assert_array_equal(env.picture(), np.concatenate(upright, axis=1))


def test_the_plan_of_the_bundled_policy_knows_the_suites_instructions() -> None:
    (export,) = (step for step in read_plan("libero_object").steps if step.verb == "export")
    assert export.options["known"] == [task.instruction for task in load_tasks("libero_object")]
