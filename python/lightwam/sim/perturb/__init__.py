# SPDX-License-Identifier: Apache-2.0
"""Perturbations of any simulator: what a policy sees, hears and does, changed at levels 1 to 3.

A perturbation is named `light:2`; several at once `light:2+delay:1`; `none` changes nothing. What is drawn follows from
the axis, the task and the trial alone. An axis is a class that wraps an environment, and a line in `AXES`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightwam.errors import ConfigError
from lightwam.sim.env import SimulatorEnv
from lightwam.sim.perturb.frames import Blur, Colour, Light, Noise
from lightwam.sim.perturb.scene import Camera, Delay, Joints, Layout
from lightwam.sim.perturb.words import Instruction
from lightwam.sim.perturb.wrapper import Perturbed as Perturbed
from lightwam.sim.plan import UNPERTURBED

AXES: dict[str, type[Perturbed]] = {
    axis.axis: axis for axis in (Light, Colour, Noise, Blur, Camera, Joints, Layout, Delay, Instruction)
}
LEVELS = (1, 2, 3)


def perturbations(words: Sequence[str], states: str) -> tuple[str, ...]:
    """The perturbations that the words of `--perturb` stand for, one row of the report each.

    `all` is none and every axis at every level, `all:2` at that level. Raises ConfigError for unknown ones, and for a
    layout where the states are shifted already.
    """
    chosen: list[str] = []
    for word in words or (UNPERTURBED,):
        name, _, level = word.partition(":")
        if name == "all" and level in ("", "1", "2", "3"):
            levels = [int(level)] if level else list(LEVELS)
            axes = [axis for axis in AXES if axis != Layout.axis or states == "official"]
            chosen += [UNPERTURBED, *(f"{axis}:{number}" for axis in axes for number in levels)]
        else:
            chosen.append(word)
            axes = [axis for axis, _ in parts(word)]
            if Layout.axis in axes and states != "official":
                raise ConfigError(f"--perturb {word} moves official starts, and --states is {states}: choose one")
    return tuple(dict.fromkeys(chosen))


def parts(perturbation: str) -> list[tuple[str, int]]:
    """(axis, level) of each part. Raises ConfigError where it is no perturbation."""
    found: list[tuple[str, int]] = []
    for part in [] if perturbation == UNPERTURBED else perturbation.split("+"):
        axis, _, level = part.partition(":")
        if axis not in AXES or level not in ("1", "2", "3"):
            known = ", ".join(AXES)
            raise ConfigError(f"--perturb {perturbation}: give AXIS:LEVEL, level 1 to 3, axis one of {known}; or all")
        found.append((axis, int(level)))
    return found


def perturbed(env: SimulatorEnv, perturbation: str) -> SimulatorEnv:
    """The environment under a perturbation; itself where that is none."""
    for axis, level in parts(perturbation):
        env = AXES[axis](env, level)
    return env
