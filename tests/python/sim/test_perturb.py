# SPDX-License-Identifier: Apache-2.0
"""Perturbations: deterministic from the trial, stronger by level, and nothing else is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.toy_sim import Toy, ToyEnv
from lightwam.errors import ConfigError, SimulatorError
from lightwam.sim.env import SimulatorEnv
from lightwam.sim.perturb import AXES, Perturbed, parts, perturbations, perturbed
from lightwam.sim.perturb.words import polite, reworded, turned_round

PICTURE = np.random.default_rng(0).integers(40, 200, (256, 32, 3), dtype=np.uint8)
FRAMES = ("light", "colour", "noise", "blur")


class Still(ToyEnv):
    """Shows one picture, and can be posed and looked at from elsewhere."""

    def observation(self) -> Any:
        return {"images": {"top": PICTURE, "wrist": PICTURE}, "state": np.zeros(2, np.float32)}

    def posed_state(self, state_N: Any, rng: np.random.Generator, spread: float) -> Any:
        return np.concatenate([state_N[:2] + spread * rng.standard_normal(2), state_N[2:]])

    def move_cameras(self, metres: Any, radians: Any) -> None:
        self.calls.append(f"camera {np.linalg.norm(metres):.3f} {np.linalg.norm(radians):.3f}")


def still() -> Still:
    return Still(Toy().task("reach", 1))


def seen(name: str, trial: int, steps: int = 0, looks: int = 1) -> Any:
    """The images of a trial after some steps."""
    env = perturbed(still(), name)
    env.begin_trial(trial)
    for _ in range(steps):
        env.step([0, 0, 0])
    for _ in range(looks):
        images = env.observation()["images"]
    return images


@pytest.mark.parametrize("axis", FRAMES)
def test_frames_follow_from_the_trial_alone_and_levels_grow(axis: str) -> None:
    away = []
    for level in (1, 2, 3):
        images = seen(f"{axis}:{level}", trial=3)
        assert images["top"].dtype == np.uint8 and images["top"].shape == PICTURE.shape
        np.testing.assert_array_equal(images["top"], seen(f"{axis}:{level}", trial=3, looks=3)["top"])
        away.append(np.abs(images["top"].astype(float) - PICTURE).mean())
    assert 1 < away[0] < away[1] < away[2]
    many = {seen(f"{axis}:2", trial)["top"].tobytes() for trial in range(8)}
    assert len(many) == 1 if axis == "blur" else len(many) > 2


def test_noise_is_new_in_each_frame_and_camera() -> None:
    first, later = seen("noise:1", 0), seen("noise:1", 0, steps=1)
    assert (first["top"] != later["top"]).any() and (first["top"] != first["wrist"]).any()
    assert seen("light:1", 0)["top"].tobytes() == seen("light:1", 0, steps=5)["wrist"].tobytes()


def test_light_and_colour_against_their_formulas() -> None:
    flat = np.full((4, 4, 3), 100.0, np.float32)
    light, colour = AXES["light"](still(), 2), AXES["colour"](still(), 3)
    for env in (light, colour):
        env.begin_trial(5)
    np.testing.assert_allclose(light.change(flat, 0), 100 * light.brightness)  # type: ignore[attr-defined]
    assert abs(light.brightness - 1) == pytest.approx(0.3)  # type: ignore[attr-defined]
    np.testing.assert_allclose(colour.change(flat, 0), flat, rtol=1e-5)  # type: ignore[attr-defined] # grey stays grey


def test_scene_and_robot() -> None:
    env = still()
    start = env.official_states()[2]

    def moved(name: str, trial: int = 2) -> Any:
        outer = perturbed(env, name)
        outer.begin_trial(trial)
        outer.set_state(start)
        return env.start_N - start

    full, half, more = (moved(f"layout:{level}") for level in (2, 1, 3))
    np.testing.assert_allclose(full, env.shifted_state(start, 2) - start)
    np.testing.assert_allclose([half, more], [0.5 * full, 1.5 * full])
    joints = moved("joints:2")
    assert joints[:2].all() and not joints[2:].any()
    np.testing.assert_array_equal(joints, moved("joints:2"))
    assert (joints != moved("joints:2", trial=3))[:2].all()
    moved("camera:3")
    assert env.calls[-2:] == ["camera 0.100 0.150", "set_state"]
    outer = perturbed(env, "camera:1+light:1")
    assert isinstance(outer, Perturbed)
    outer.leave()
    assert env.calls[-1] == "camera 0.000 0.000"
    assert not moved("none").any()


def test_a_delay_executes_the_same_actions_later() -> None:
    plain, late = still(), still()
    outer = perturbed(late, "delay:2")
    outer.begin_trial(0)
    for env in (plain, late):
        env.set_state(env.official_states()[0])
    places = []
    for number in range(6):
        action = np.array([0.1 * number, 0.5, -1])
        plain.step(action)
        outer.step(action, render=True)
        places.append((plain.start_N[:2].copy(), late.start_N[:2].copy()))
    np.testing.assert_array_equal(places[5][1], places[3][0])
    assert not places[1][1].any() and late.calls.count("settle 1") == 2


def test_instructions_keep_what_matters() -> None:
    text = "pick up the alphabet soup and place it in the basket"
    for level in (1, 2, 3):
        said = set()
        for trial in range(10):
            toy = still()
            toy.instruction = lambda: text  # type: ignore[method-assign]
            env = perturbed(toy, f"instruction:{level}")
            env.begin_trial(trial)
            said.add(env.instruction())
            assert "alphabet soup" in env.instruction() and "basket" in env.instruction()
        assert text not in said and len(said) > 2
    assert turned_round(text) == "in the basket: pick up the alphabet soup and place it there"
    assert turned_round("open the drawer") == "open the drawer"
    rng = np.random.default_rng(0)
    assert "open" in polite("open it", rng) and reworded("push the plate", rng) in ("move the plate", "slide the plate")


def test_names() -> None:
    assert parts("none") == [] and parts("light:2+delay:1") == [("light", 2), ("delay", 1)]
    assert len(perturbations(["all"], "official")) == 1 + 3 * len(AXES)
    assert "layout:2" not in perturbations(["all:2"], "shifted") and perturbations([], "official") == ("none",)
    for word in ("light", "light:4", "fog:1", "light:2+", "all:9"):
        with pytest.raises(ConfigError, match="AXIS:LEVEL, level 1 to 3, axis one of light, colour"):
            perturbations([word], "official")
    with pytest.raises(ConfigError, match="choose one"):
        perturbations(["layout:1"], "shifted")


def test_what_a_simulator_cannot_is_refused_by_name() -> None:
    plain: SimulatorEnv = ToyEnv(Toy().task("reach", 1))
    for axis in ("camera", "joints"):
        env = perturbed(plain, f"{axis}:1")
        env.begin_trial(0)
        with pytest.raises(SimulatorError, match=f"leave out --perturb {axis}"):
            env.set_state(plain.official_states()[0])
