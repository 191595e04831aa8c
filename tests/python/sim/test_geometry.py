# SPDX-License-Identifier: Apache-2.0
"""Footprints of point clouds."""

from __future__ import annotations

import numpy as np
import pytest

from lightwam.sim.libero.env import axis_angle
from lightwam.sim.libero.geometry import footprint, wrap_half_turn


@pytest.mark.parametrize("degrees", [-80, -30, 0, 10, 45, 85])
def test_a_turned_box_is_found(degrees: float) -> None:
    corners = np.array(np.meshgrid([-0.02, 0.02], [-0.05, 0.05], [0.0, 0.12])).reshape(3, 8).T
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    found = footprint(corners @ rotation.T + [0.3, -0.2, 0.01])
    assert found.narrow_width == pytest.approx(0.04, abs=2e-3)
    assert found.wide_width == pytest.approx(0.10, abs=2e-3)
    np.testing.assert_allclose(found.centre_xy, [0.3, -0.2], atol=1e-6)
    assert (found.bottom, found.top) == (pytest.approx(0.01), pytest.approx(0.13))
    assert abs(wrap_half_turn(found.narrow_yaw - turn)) < np.deg2rad(1.5)


def test_lines_have_no_direction() -> None:
    assert wrap_half_turn(np.pi) == pytest.approx(0.0)
    assert wrap_half_turn(3 * np.pi / 4) == pytest.approx(-np.pi / 4)


def test_axis_angle_of_quaternions() -> None:
    np.testing.assert_allclose(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(axis_angle(np.array([0.0, half, 0.0, half])), [0.0, np.pi / 2, 0.0])
