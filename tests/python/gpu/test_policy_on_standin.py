# SPDX-License-Identifier: Apache-2.0
"""The small engine through the C++ executor: its lowered plan, every launch computed from its kernel's Triton source.

In f32, and with 8-bit linears, it must agree with the CPU's backend. Whole policies: test_end_to_end.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.standin import run_script

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from helpers.engine_files import quantised, small_engine, write_engine
from helpers.shells import write_shell_engine
from helpers.standin import Standin, interpreted
from lightwam.engine.file import read_engine
from lightwam.gpu.lower import lower
from lightwam.runtime import Policy

_, library, folder, which, integrated, tolerance = sys.argv
source = Path(folder) / "plain.lwam"
if which == "small":
    write_engine(source, small_engine())
else:
    write_engine(source, quantised(small_engine(images=False)))
graph = read_engine(source)
path = Path(folder) / "gpu.lwam"
standin = Standin(library)
standin.set_device(87, integrated=bool(int(integrated)))
standin.set_kernel(interpreted(standin, write_shell_engine(graph, lower(graph), path)))
policies = [Policy(path, device=device, threads=1) for device in ("cpu", "cuda")]
generator = np.random.default_rng(3)
facts = graph.policy
for round, size in enumerate(((12, 10), (16, 14))):  # the second records the graph anew
    seen = {"state": generator.normal(size=facts["state_width"]).astype(np.float32)}
    if facts["starts_at"] == "images":
        pictures = {c["name"]: generator.integers(0, 256, (*size, 3), dtype=np.uint8) for c in facts["cameras"]}
        seen["images"] = pictures
    else:
        seen["latents"] = generator.normal(size=facts["latent_shape"]).astype(np.float32)
    chunks = []
    for policy in policies:
        policy.set_instruction(policy.instructions[0])
        chunks.append(policy.infer(seen).actions.astype(np.float64))
    error = np.abs(chunks[0] - chunks[1]).max() / np.abs(chunks[0]).max()
    assert error < float(tolerance), (round, error)
assert not standin.failures and not standin.misuse, (standin.failures, standin.misuse)
"""


# f32: both round sums of up to some hundred products in their own order. 8 bits: a value between two steps may be
# rounded up by one and down by the other (docs/reference/engine-format.md, 4.1), one step of 255 through two linears.
@pytest.mark.parametrize(
    ("engine", "integrated", "tolerance"),
    [("small", 0, 1e-5), ("small", 1, 1e-5), ("int8", 0, 1e-2)],
)
def test_small_policies_agree_with_the_cpu(
    tmp_path: Path, standin_library: Path, engine: str, integrated: int, tolerance: float
) -> None:
    run_script(SCRIPT, standin_library, tmp_path, engine, str(integrated), str(tolerance))
