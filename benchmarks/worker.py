# SPDX-License-Identifier: Apache-2.0
"""One contender in a process of its own: reads one JSON request a line, answers one JSON line.

Requests: {"do": "infer", "observation": i} times one chunk; {"do": "finish"} reports memory and profiled stages and
ends the process. The first line comes by itself once the contender is ready. Libraries print to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, Setting, build

from lightwam.bench.figures import peak_memory_bytes


def main() -> None:
    name, size, folder, threads = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setting = Setting(size, Path(folder), int(threads))
    began = time.perf_counter()
    contender = build(name, setting)
    print(json.dumps({"load_seconds": time.perf_counter() - began}), file=answers)
    idle_since = (time.perf_counter(), time.process_time())
    prepared: dict[int, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        idle = _share_since(idle_since)
        if request["do"] == "finish":
            memory = peak_memory_bytes()  # before the profiled run, which may hold a second copy
            print(json.dumps({"peak_memory_bytes": memory, "profiled": _profile(contender, prepared)}), file=answers)
            return
        index = request["observation"]
        if index not in prepared:
            prepared[index] = contender.prepare(index)
        print(json.dumps({**_timed(contender, prepared[index]), "idle_share": idle}), file=answers)
        idle_since = (time.perf_counter(), time.process_time())


def _timed(contender: Contender, prepared: Any) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    actions = contender.infer(prepared)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    if not np.isfinite(actions).all():
        raise ValueError("its actions are not finite")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "stages": contender.stages(),
        "actions": actions.astype(float).ravel().tolist(),
    }


def _profile(contender: Contender, prepared: dict[int, Any]) -> dict[str, float]:
    return contender.profiled_stages(next(iter(prepared.values()))) if prepared else {}


def _share_since(since: tuple[float, float]) -> float:
    """CPU cores kept busy since then: a contender that spins while others have their turn would disturb them."""
    elapsed = time.perf_counter() - since[0]
    return (time.process_time() - since[1]) / elapsed if elapsed > 0 else 0.0


if __name__ == "__main__":
    main()
