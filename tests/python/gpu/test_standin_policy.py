# SPDX-License-Identifier: Apache-2.0
"""`Policy(device="cuda")` from Python, on the stand-in driver: toy kernels, errors, and a kernel compiled by Triton."""

from __future__ import annotations

from pathlib import Path

from standin import run_script

TOY = """
import ctypes, sys
import numpy as np
from engine_files import TASK, observation, write_engine
from gpu_plans import small_gpu_engine
from standin import Standin
from lightwam.errors import DeviceError
from lightwam.runtime import Policy

def floats(address, *shape):
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)

def toy(launch):
    a, name = launch.addresses, launch.entry.partition("_kernel")[0]
    if name == "encode":
        rows = ctypes.c_int32.from_address(a[1]).value
        floats(a[2], 6, 8)[:] = floats(a[0], 6, 8) * rows
    elif name == "look":
        sizes = (ctypes.c_int32 * 4).from_address(a[2])
        counts = [sizes[0] * sizes[1] * 3, sizes[2] * sizes[3] * 3]
        frames = [(ctypes.c_uint8 * count).from_address(at) for count, at in zip(counts, a)]
        floats(a[3], 8)[:] = [*(np.mean(np.ctypeslib.as_array(frame)) for frame in frames), *sizes, 0, 0]
    elif name == "mix":
        floats(a[5], 8)[:] = (floats(a[2], 8, 5) @ floats(a[4], 5) + floats(a[3], 8) + floats(a[1], 8)
                              + floats(a[0], 6, 8).sum(axis=0))
    elif name == "double":
        floats(a[1], 8)[:] = 2 * floats(a[0], 8)
    else:
        floats(a[1], 12)[:] = np.resize(floats(a[0], 8), 12)

standin = Standin(sys.argv[1])
standin.set_device(87)
standin.set_kernel(toy)
engine = small_gpu_engine()
"""


def test_toy_kernels(tmp_path: Path, standin_library: Path) -> None:
    script = (
        TOY
        + """
from pathlib import Path
path = write_engine(Path(sys.argv[2]) / "small.lwam", engine)
policy = Policy(path, device="cuda")
assert "GPU 'Stand-in', sm_87" in policy.run_path and policy.metadata["name"] == "small"
policy.set_instruction(TASK)
seen = observation()
chunk = policy.infer(seen)
assert list(chunk.timings) == ["total"]
means = [seen["images"][name].mean(dtype=np.float64) for name in ("agentview", "wrist")]
hidden = engine.tensors["state.weight"].astype(np.float64) @ seen["state"] + engine.tensors["state.bias"]
hidden += [*means, 12, 10, 12, 10, 0, 0] + 4.0 * engine.tensors["instruction.0"].sum(axis=0, dtype=np.float64)
expected = np.resize(2 * hidden, (4, 3))
# Sums of ten numbers of size 100 in float32.
assert np.abs(chunk.actions - expected).max() < 1e-6 * np.abs(expected).max(), (chunk.actions, expected)
assert np.array_equal(policy.infer(seen).actions, chunk.actions)

def failing(launch):
    raise ValueError("a wrong launch")
standin.set_kernel(failing)
for message in ("computing actions on the GPU: the GPU driver says", "make a new policy"):
    try:
        policy.infer(seen)
    except DeviceError as error:
        assert message in str(error), error
    else:
        raise AssertionError("no error")
assert "a wrong launch" in standin.failures[0]
standin.set_kernel(toy)
assert Policy(path, device="auto").run_path.startswith("engine 'small' runs on GPU")
assert not standin.misuse and standin.leaked == 0, standin.misuse
"""
    )
    run_script(script, standin_library, tmp_path)
