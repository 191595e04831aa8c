# SPDX-License-Identifier: Apache-2.0
"""Which OpenGL library MuJoCo is told to use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lightwam.errors import SimulatorError
from lightwam.sim.libero import renderer


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "")


def test_osmesa_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_loads", lambda backend: True)
    assert renderer.choose_renderer() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_egl_where_osmesa_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_loads", lambda backend: backend == "egl")
    assert renderer.choose_renderer() == "egl"


def test_neither_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_loads", lambda backend: False)
    with pytest.raises(SimulatorError, match=r"osmesa or egl.*libosmesa6") as caught:
        renderer.choose_renderer()
    assert "\n" not in str(caught.value)


def test_a_choice_of_the_user_is_kept_but_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(renderer, "_loads", lambda backend: backend == "osmesa")
    with pytest.raises(SimulatorError, match="egl"):
        renderer.choose_renderer()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(SimulatorError, match="glfw"):
        renderer.choose_renderer()


def test_another_platform_of_pyopengl_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_loads", lambda backend: True)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    with pytest.raises(SimulatorError, match="PYOPENGL_PLATFORM='glx' contradicts MUJOCO_GL='osmesa': unset it"):
        renderer.choose_renderer()
    assert os.environ["MUJOCO_GL"] == ""


def test_mujoco_may_be_imported_before() -> None:
    code = "import mujoco; from lightwam.sim.libero.env import import_libero; import_libero()"
    subprocess.run([sys.executable, "-c", code], check=True)
