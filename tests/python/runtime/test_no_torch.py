# SPDX-License-Identifier: Apache-2.0
"""The runtime runs with PyTorch (and everything else but NumPy) out of reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lightwam

SCRIPT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "pyarrow", "av", "rich", "tyro", "matplotlib"):
            raise ImportError(name + " is out of reach")

sys.meta_path.insert(0, Refuse())
import lightwam, lightwam.runtime
from helpers.engine_files import TASK, observation
policy = lightwam.runtime.Policy(sys.argv[1])
policy.set_instruction(TASK)
assert policy.infer(observation()).actions.shape == (4, 3)
print(policy.metadata["name"])
assert not {"torch", "safetensors"} & set(sys.modules), sys.modules.keys()
"""


def test_the_runtime_never_imports_torch(engine_path: Path) -> None:
    folders = [str(Path(__file__).parents[1]), str(Path(lightwam.__file__).parents[1])]
    script = f"import sys; sys.path[:0] = {folders!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script, str(engine_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout
