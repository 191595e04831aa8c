# SPDX-License-Identifier: Apache-2.0
"""Tasks on PyTorch tensors: compiled on first use on a CUDA device, by Triton's interpreter on the CPU (for tests)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightwam.kernels.interpret import kernel_module, kernel_parameters, run
from lightwam.kernels.task import Argument, DType, Task

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i32": torch.int32,
    "u8": torch.uint8,
}


def launch(task: Task, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Run a task on the tensors of its read arguments, in their order; returns those that it writes, in theirs.

    Tensors are contiguous, on one device, and have the argument's format and number of elements; ValueError otherwise.
    On a CUDA device the default tactic of its architecture runs on the current stream; nothing waits for it.
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
    major, minor = torch.cuda.get_device_capability(device)
    tactic = module.tactics(task, f"sm_{major}{minor}")[0]
    memory = {argument.name: tensor for argument, tensor in zip(task.arguments, tensors, strict=True)}
    bound = {
        name: memory[value.name] if isinstance(value, Argument) else value
        for name, value in kernel_parameters(task, tactic).items()
    }
    options = {"num_warps": tactic.num_warps, "num_stages": tactic.num_stages}
    with torch.cuda.device(device):
        module.kernel[module.grid(task, tactic)](**bound, **options)
