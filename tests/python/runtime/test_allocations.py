# SPDX-License-Identifier: Apache-2.0
"""`Policy.infer` from Python: its C++ side, binding included, allocates nothing after the first call."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import lightwam
from helpers.engine_files import observation
from lightwam.runtime import Policy

SCRIPT = """
import ctypes, sys
from helpers.engine_files import TASK, observation
from lightwam.runtime import Policy

probe = ctypes.CDLL(sys.argv[1])
policy = Policy(sys.argv[2], threads=int(sys.argv[3]))
assert probe.probe_prepare() >= 2
probe.probe_start()
policy.set_instruction(TASK)
assert probe.probe_stop() > 0, "the probe does not see the extension"
small, large = observation(), observation(size=(40, 50))
policy.infer(small)
probe.probe_start()
for _ in range(10):
    policy.infer(small)
same_size = probe.probe_stop()
probe.probe_start()
policy.infer(large)
new_size = probe.probe_stop()
probe.probe_start()
policy.infer(large)
assert (same_size, probe.probe_stop()) == (0, 0) and new_size > 0, (same_size, new_size)
"""


def run_probe(folder: Path, engine: Path, threads: int) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).with_name("allocation_probe.c")
    library = folder / "probe.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    paths = os.pathsep.join([str(source.parents[1]), str(Path(lightwam.__file__).parents[1])])
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": paths}
    command = [sys.executable, "-c", SCRIPT, str(library), str(engine), str(threads)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_infer_allocates_nothing_after_the_first_call(tmp_path: Path, engine_path: Path) -> None:
    for threads in (1, 2):
        done = run_probe(tmp_path, engine_path, threads)
        assert done.returncode == 0, done.stderr


def test_infer_leaves_no_garbage(policy: Policy) -> None:
    """Nothing for the cyclic collector, whose pauses would show in the latency, and nothing that grows."""
    seen = observation()
    gc.collect()
    gc.disable()
    try:
        blocks = []
        for _ in range(3):
            for _ in range(100):
                policy.infer(seen)
            blocks.append(sys.getallocatedblocks())
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert blocks[2] - blocks[1] < 50  # 100 calls; a few blocks move with the interpreter's own free lists
