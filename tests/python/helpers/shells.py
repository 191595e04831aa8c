# SPDX-License-Identifier: Apache-2.0
"""Engines for the stand-in driver: a lowered plan whose machine code is shells of cubins, run by the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from helpers.engine_files import Engine, write_engine
from helpers.gpu_plans import TARGETS, cubin
from lightwam.engine.graph import Constant, Graph, graph_to_json
from lightwam.gpu.plan import LaunchPlan, plan_to_json
from lightwam.kernels.interpreter.interpret import kernel_module
from lightwam.kernels.task import Tactic, Task

TARGET = "sm_87"


def write_shell_engine(
    graph: Graph, plan: LaunchPlan, path: Path, target: str = TARGET
) -> dict[tuple[str, str], tuple[Task, Tactic]]:
    """Writes the engine with the plan and a shell for each task; what each shell stands for (`standin.interpreted`)."""
    arch, abi = TARGETS[target]
    document = graph_to_json(graph)
    gpu = plan_to_json(plan)
    image = b""
    compiled: dict[tuple[str, str], tuple[Task, Tactic]] = {}
    for number, (planned, entry) in enumerate(zip(plan.tasks, gpu["tasks"], strict=True)):
        task = planned.task
        module = kernel_module(task)
        tactic = module.tactics(task, "interpreter")[0]
        name, threads = f"{task.kernel}_{number}", 32 * tactic.num_warps
        code = cubin(name, len(task.arguments) + 2, arch, abi, threads)
        place = {"entry": name, "offset": len(image), "bytes": len(code), "grid": list(module.grid(task, tactic))}
        sizes = {"threads": threads, "shared": 0, "registers": 32, "note": "a shell"}
        entry["tactics"] = {target: [place | sizes]}
        compiled[sha256(code).hexdigest(), name] = (task, tactic)
        image += code
    gpu["images"] = {target: f"gpu.{target}"}
    constants: Mapping[str, Constant] = {**graph.constants, **plan.derived}
    tensors = {name: np.ascontiguousarray(constant.array()) for name, constant in constants.items()}
    tensors[f"gpu.{target}"] = np.frombuffer(image, np.int8)
    write_engine(path, Engine({**document, "gpu": gpu}, tensors))
    return compiled
