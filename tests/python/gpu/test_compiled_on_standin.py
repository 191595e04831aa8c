# SPDX-License-Identifier: Apache-2.0
"""The small engine with real machine code: verified and launched by the C++ executor, computed by the interpreter.

Each launch runs its kernel's source with the constants of the tactic that its cubin was compiled from; the interpreter
refuses to run another grid than that tactic's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.standin import run_script

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from helpers.engine_files import quantised, small_engine
from helpers.engine_files import write_engine as write_small
from helpers.standin import Standin, interpreted, kernels_of
from lightwam.engine.file import read_engine, write_engine
from lightwam.gpu.compile import compile_plan, gpu_part
from lightwam.gpu.lower import lower
from lightwam.kernels.compiler.tasks import Compiler
from lightwam.runtime import Policy

_, library, folder, target, eight_bit, tolerance = sys.argv
source, path = Path(folder) / "plain.lwam", Path(folder) / "gpu.lwam"
write_small(source, quantised(small_engine(images=False)) if int(eight_bit) else small_engine())
graph = read_engine(source)
compiled = compile_plan(lower(graph), [target], Compiler(None, 2), 1)
write_engine(graph, path, gpu=gpu_part(compiled, graph))
standin = Standin(library)
standin.set_device(int(target.removeprefix("sm_")))
standin.set_kernel(interpreted(standin, kernels_of(compiled)))
generator = np.random.default_rng(5)
facts = graph.policy
seen = {"state": generator.normal(size=facts["state_width"]).astype(np.float32)}
if facts["starts_at"] == "images":
    seen["images"] = {c["name"]: generator.integers(0, 256, (12, 10, 3), dtype=np.uint8) for c in facts["cameras"]}
else:
    seen["latents"] = generator.normal(size=facts["latent_shape"]).astype(np.float32)
chunks = []
for device in ("cpu", "cuda"):
    policy = Policy(path, device=device, threads=1)
    policy.set_instruction(policy.instructions[0])
    chunks.append(policy.infer(seen).actions.astype(np.float64))
error = np.abs(chunks[0] - chunks[1]).max() / np.abs(chunks[0]).max()
assert error < float(tolerance), error
assert not standin.failures and not standin.misuse, (standin.failures, standin.misuse)
"""


# As in test_policy_on_standin.py: f32 sums in another order; 8 bits, a step of 255 through two linears.
@pytest.mark.parametrize(("target", "eight_bit", "tolerance"), [("sm_87", 0, 1e-5), ("sm_110", 1, 1e-2)])
def test_compiled_policies_agree_with_the_cpu(
    tmp_path: Path, standin_library: Path, target: str, eight_bit: int, tolerance: float
) -> None:
    run_script(SCRIPT, standin_library, tmp_path, target, str(eight_bit), str(tolerance))
