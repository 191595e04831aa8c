# SPDX-License-Identifier: Apache-2.0
"""fp8 through `Policy(device="cuda")` on the stand-in driver: the numbers, and a GPU without fp8 products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.standin import run_script

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from helpers.end_to_end import Oracle, infer, observations
from lightwam.errors import DeviceError
from lightwam.engine.file import read_engine, write_engine
from lightwam.gpu.lower import lower
from lightwam.quantize.layers import in_precision
from lightwam.runtime import Policy
from helpers.shells import write_shell_engine
from helpers.standin import Standin, interpreted

_, library, plain, folder = sys.argv
standin, path = Standin(library), Path(folder) / "gpu.lwam"
graph = in_precision(read_engine(plain), "fp8", 1)
standin.set_device(110)
standin.set_kernel(interpreted(standin, write_shell_engine(graph, lower(graph), path, "sm_110")))
oracle = Oracle(graph)
policies = [Policy(path, device=device, threads=1) for device in ("cuda", "cpu")]
assert "sm_110" in policies[0].execution_info and "fp8 products" in policies[0].execution_info
for text, seen in observations(graph, 1, {}):
    wanted = oracle.chunk(text, seen)[0]
    # All else is f32, and no number of these rows lies beside a tie.
    for policy in policies:
        error = np.abs(infer(policy, text, seen) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-5, (policy.execution_info, error)
assert not standin.failures and not standin.misuse, (standin.failures, standin.misuse)
del policies
standin.set_device(87)
try:
    Policy(path, device="cuda")
except DeviceError as error:
    assert "(sm_87), which has no fp8 products; take an int8 engine" in str(error), error
else:
    raise AssertionError("an fp8 engine on sm_87")
assert "no fp8 products" in Policy(path, device="auto").execution_info
assert standin.leaked == 0
"""


def test_fp8_computes_what_the_interpreter_does_and_names_a_gpu_without_it(
    tmp_path: Path, standin_library: Path, policy_engine: Callable[..., Path]
) -> None:
    run_script(SCRIPT, standin_library, policy_engine("golden_set1", "f32"), tmp_path, timeout=600)
