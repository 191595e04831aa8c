# SPDX-License-Identifier: Apache-2.0
"""Tasks on PyTorch tensors: compiled on first use on a CUDA device, by Triton's interpreter on the CPU (for tests)."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

from lightwam.kernels.compiler.tasks import CompiledTask, CompileError, candidates
from lightwam.kernels.compiler.variant import Code, code_of, one_line
from lightwam.kernels.interpreter.interpret import run
from lightwam.kernels.targets import ALL_TARGETS
from lightwam.kernels.task import Argument, DType, Tactic, Task, kernel_module, kernel_parameters

_logger = logging.getLogger("lightwam.kernels")
_chosen: dict[Hashable, Tactic] = {}  # by kernel, constants, arguments, target

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8": torch.float8_e4m3fn,
    "i8": torch.int8,
    "i32": torch.int32,
    "u8": torch.uint8,
}


def launch(task: Task, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Run a task on the tensors of its read arguments, in their order; returns those that it writes, in theirs.

    Tensors are contiguous, on one device, and have the argument's format and number of elements; ValueError otherwise.
    On a CUDA device the first tactic that does not spill runs on the current stream; it is compiled on first use, and
    nothing waits for the launch. CompileError where none can be compiled.
    """
    given, device = list(tensors), tensors[0].device
    every: list[Tensor] = []
    for argument in task.arguments:
        if argument.mode == "r":
            every.append(_checked(task, argument, given.pop(0), device))
        else:
            every.append(torch.empty(argument.shape or (), dtype=TORCH_DTYPES[argument.dtype], device=device))
    if device.type == "cuda":
        _launch_compiled(task, every)
    else:
        run(task, kernel_module(task).tactics(task, "interpreter")[0], [tensor.data_ptr() for tensor in every])
    return [tensor for argument, tensor in zip(task.arguments, every, strict=True) if argument.mode == "w"]


def _checked(task: Task, argument: Argument, tensor: Tensor, device: torch.device) -> Tensor:
    wanted = TORCH_DTYPES[argument.dtype], argument.shape, device
    if (tensor.dtype, tuple(tensor.shape), tensor.device) != wanted or not tensor.is_contiguous():
        got = f"{tensor.dtype}{list(tensor.shape)} with strides {list(tensor.stride())} on {tensor.device}"
        raise ValueError(f"kernel {task.kernel}: {argument.name} is {got}; contiguous {wanted} is needed")
    return tensor


def _launch_compiled(task: Task, tensors: Sequence[Tensor]) -> None:
    module, device = kernel_module(task), tensors[0].device
    target = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    key = (task.kernel, tuple(task.constants.items()), task.arguments, target)
    with torch.cuda.device(device):
        tactic = _chosen.get(key)
        if tactic is None:
            tactic = _chosen[key] = choose_tactic(task, target, tensors)
        module.kernel[module.grid(task, tactic)](**_parameters(task, tactic, tensors))


def choose_tactic(task: Task, target: str, tensors: Sequence[Tensor]) -> Tactic:
    """The first tactic that compiles for the GPU in use without spilling, else the one that spills least (a warning).

    `target`: that GPU's. CompileError where it is none of lightwam.kernels.targets, and where no tactic compiles.
    """
    if target not in ALL_TARGETS:
        raise CompileError(f"kernel {task.kernel} has no tactics for {target}, only for {', '.join(ALL_TARGETS)}")
    module = kernel_module(task)
    most_shared = driver.active.utils.get_device_properties(driver.active.get_current_device())["max_shared_mem"]
    result = CompiledTask(task, target)
    for tactic in candidates(task, target):
        outcome: Code | str
        try:
            parameters = _parameters(task, tactic, tensors)
            outcome = code_of(module.kernel.warmup(grid=module.grid(task, tactic), **parameters))
        except Exception as error:  # whatever the compiler raises
            outcome = one_line(error)
        result.judge(tactic, "", outcome, most_shared)
        if result.kept:
            return tactic
    result.keep_least_spilling()
    least = result.kept[0]
    message = "kernel %s: every tactic for %s spills, at least %d bytes a thread"
    _logger.warning(message, task.kernel, target, least.code.stack)
    return least.tactic


def _parameters(task: Task, tactic: Tactic, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Every parameter of the kernel by name, and the tactic's options for Triton."""
    memory = {argument.name: tensor for argument, tensor in zip(task.arguments, tensors, strict=True)}
    bound = {
        name: memory[value.name] if isinstance(value, Argument) else value
        for name, value in kernel_parameters(task, tactic).items()
    }
    return {**bound, "num_warps": tactic.num_warps, "num_stages": tactic.num_stages, "enable_fp_fusion": True}
