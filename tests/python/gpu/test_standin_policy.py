# SPDX-License-Identifier: Apache-2.0
"""`Policy(device="cuda")` from Python, on the stand-in driver: toy kernels, errors, and a kernel compiled by Triton."""

from __future__ import annotations

from pathlib import Path

from helpers.standin import run_script

TOY = """
import sys
import numpy as np
from helpers.engine_files import TASK, observation, write_engine
from helpers.gpu_plans import small_gpu_engine
from helpers.standin import Standin
from helpers.toy_policy import run_toy
from lightwam.errors import DeviceError
from lightwam.runtime import Policy

standin = Standin(sys.argv[1])
standin.set_device(87)
standin.set_kernel(run_toy)
engine = small_gpu_engine()
"""


def test_toy_kernels(tmp_path: Path, standin_library: Path) -> None:
    script = (
        TOY
        + """
from pathlib import Path
path = write_engine(Path(sys.argv[2]) / "small.lwam", engine)
policy = Policy(path, device="cuda")
assert "GPU 'Stand-in', sm_87" in policy.execution_info and policy.metadata["name"] == "small"
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
standin.set_kernel(run_toy)
assert Policy(path, device="auto").execution_info.startswith("engine 'small' runs on GPU")
assert not standin.misuse and standin.leaked == 0, standin.misuse
"""
    )
    run_script(script, standin_library, tmp_path)
