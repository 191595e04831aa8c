# SPDX-License-Identifier: Apache-2.0
"""The wheel in a venv that holds NumPy and nothing else: the runtime and the verbs of the base installation work."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

SCRIPT = """
import importlib.util, sys
import numpy as np
import lightwam, lightwam.runtime
from lightwam.assets import bundled_engine
assert importlib.util.find_spec("torch") is None, "this venv must not hold torch"
policy = lightwam.runtime.Policy(bundled_engine(), threads=1)
policy.set_instruction(policy.instructions[0])
images = {c["name"]: np.full((256, 256, 3), 127, np.uint8) for c in policy.metadata["policy"]["cameras"]}
chunk = policy.infer({"images": images, "state": np.zeros(policy.metadata["policy"]["state_width"])})
assert chunk.actions.shape == (policy.metadata["policy"]["horizon"], policy.metadata["policy"]["action_width"])
assert np.isfinite(chunk.actions).all()
assert not {"torch", "tyro", "rich"} & set(sys.modules)
# Kernels travel in the wheel; their shapes and formats need no Triton.
import lightwam.kernels.formats, lightwam.kernels.task
assert importlib.util.find_spec("lightwam.kernels.ops.conv2d") is not None and "triton" not in sys.modules
"""


def test_the_wheel_works_with_numpy_alone(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    folder = {"SKBUILD_BUILD_DIR": str(REPOSITORY / "build" / "test")}  # what `make` built is not built again
    subprocess.run([*build, "--wheel-dir", str(wheels), str(REPOSITORY)], check=True, env={**os.environ, **folder})
    (wheel,) = wheels.glob("lightwam-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    subprocess.run([python, "-c", SCRIPT], check=True, cwd=tmp_path)
    lightwam = str(tmp_path / "venv" / "bin" / "lightwam")
    engine = str(REPOSITORY / "python/lightwam/assets/nano-libero-object-0.lwam")
    for words in (
        ["--version"],
        ["bench", "--help"],
        ["tune", "--help"],
        ["inspect", engine],
        ["bench", "--runs", "1"],
    ):
        done = subprocess.run([lightwam, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", words
    done = subprocess.run([lightwam, "onnx", "--engine", engine, "--out", "a.onnx"], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install '.[onnx]' in a checkout" in done.stderr and "'onnx>" in done.stderr
