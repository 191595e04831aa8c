# SPDX-License-Identifier: Apache-2.0
"""Half-precision modules that compute in float32, one layer at a time: the reference of an export's parity.

The rounding of a half-precision reference would count as the engine's error, and a float32 copy of a whole full-size
policy takes twice its file. So its large parts are widened while they run and narrowed again behind them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 1 << 20  # numbers: such parts stay wide, and callers may look at their weights' type
_UNIT = 1 << 26  # numbers that are widened together where one part holds them


@contextlib.contextmanager
def computing_in_float32(*modules: nn.Module | None) -> Iterator[None]:
    """Within the block, half-precision parameters are float32 whenever their part of the module runs.

    Every part must be run by calling it, as modules are; nothing may train them meanwhile. Afterwards all parameters
    are the tensors that they were.
    """
    with contextlib.ExitStack() as stack:
        for module in modules:
            if module is not None:
                _widen(module, stack)
        yield


def _widen(module: nn.Module, stack: contextlib.ExitStack) -> None:
    """Widen what is small for good, hook what is a unit, and look into what is larger."""
    numbers = sum(parameter.numel() for parameter in _narrow(module))
    children = list(module.children())
    if numbers <= _SMALL:
        stack.callback(_assign, _assign_wide(module))
    elif _is_called(module) and (numbers <= _UNIT or not children):
        _hook(module, stack)
    else:
        stack.callback(_assign, _assign_wide(module, recurse=False))
        for child in children:
            _widen(child, stack)


def _is_called(module: nn.Module) -> bool:
    """Whether a module has a forward pass of its own; a sequence of layers may also be run layer by layer."""
    return type(module).forward is not nn.Module.forward and not isinstance(module, nn.Sequential)


def _hook(module: nn.Module, stack: contextlib.ExitStack) -> None:
    narrow: list[tuple[nn.Parameter, Tensor]] = []

    def before(_module: nn.Module, _arguments: Any) -> None:
        narrow.extend(_assign_wide(module))

    def after(_module: nn.Module, _arguments: Any, _output: Any) -> None:
        _assign(narrow)
        narrow.clear()

    stack.callback(_assign, narrow)  # for a forward pass that failed
    stack.callback(module.register_forward_pre_hook(before).remove)
    stack.callback(module.register_forward_hook(after).remove)


def _narrow(module: nn.Module, recurse: bool = True) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse) if parameter.dtype.itemsize < 4]


def _assign_wide(module: nn.Module, recurse: bool = True) -> list[tuple[nn.Parameter, Tensor]]:
    """Make half-precision parameters float32; returns them with what they held."""
    held = [(parameter, parameter.data) for parameter in _narrow(module, recurse)]
    for parameter, numbers in held:
        parameter.data = numbers.to(torch.float32)
    return held


def _assign(held: list[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, numbers in held:
        parameter.data = numbers
