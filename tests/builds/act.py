# SPDX-License-Identifier: Apache-2.0
"""A program of somebody else, in Python: see act.c. Needs lightwam and NumPy installed, nothing else."""

from __future__ import annotations

import sys

import numpy as np

from lightwam.assets import bundled_engine
from lightwam.runtime import Policy

policy = Policy(bundled_engine(), threads=1)
policy.set_instruction(sys.argv[1])
pixels = (np.arange(96 * 96 * 3) * 37 % 251).astype(np.uint8).reshape(96, 96, 3)
sizes = policy.metadata["policy"]
images = {camera["name"]: pixels for camera in sizes["cameras"]}
chunk = policy.infer({"images": images, "state": np.zeros(sizes["state_width"])})
print("\n".join(f"{action:.9g}" for action in chunk.actions.ravel()))
unwanted = {"torch", "tyro", "rich"} & set(sys.modules)
assert not unwanted, f"the runtime imported {unwanted}"
print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}: {policy.execution_info}", file=sys.stderr)
