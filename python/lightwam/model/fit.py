# SPDX-License-Identifier: Apache-2.0
"""Whether given weights are exactly those that a network expects: every key, shape and type, every number finite.

Nothing here needs the network's own memory: expectations are shapes, taken from a model on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightwam.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

#: Types that a weight may have.
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_KINDS = ("missing", "unknown", "given twice", "wrong shape", "wrong type", "not a tensor", "not finite", "too large")
_CHUNK = 1 << 24  # numbers looked at together


@dataclass(frozen=True)
class Fault:
    """One weight that does not fit. `kind` is one of those listed in `faults_line`; `detail` may be empty."""

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.detail}".rstrip()


class MisfitError(CheckpointError):
    """Weights that do not fit; `faults` lists every one of them, the message some of each kind."""

    def __init__(self, what: str, faults: list[Fault]) -> None:
        super().__init__(f"{what} does not fit the configuration; {faults_line(faults)}")
        self.faults = faults


def faults_line(faults: Iterable[Fault]) -> str:
    """One line: of every kind the number and the first four."""
    by_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for fault in faults:
        by_kind[fault.kind].append(str(fault))
    return "; ".join(f"{len(found)} {kind}: {_some(found)}" for kind, found in by_kind.items() if found)


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def expected_shapes(module: nn.Module, leave: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's weights, without those whose names contain one of `leave`."""
    names = module.state_dict()
    parts = tuple(leave)
    return {k: tuple(v.shape) for k, v in names.items() if not any(part in k for part in parts)}


def find_faults(expected: Shapes, given: Mapping[str, Any]) -> list[Fault]:
    """Missing and unknown names, wrong shapes and types; reads no number."""
    faults = [Fault("missing", name) for name in expected if name not in given]
    faults += [Fault("unknown", name) for name in given if name not in expected]
    for name, value in given.items():
        if not isinstance(value, Tensor):
            faults.append(Fault("not a tensor", name, f"({type(value).__name__})"))
            continue
        if name in expected and tuple(value.shape) != expected[name]:
            faults.append(Fault("wrong shape", name, f"{list(value.shape)} instead of {list(expected[name])}"))
        if value.dtype not in FLOAT_DTYPES:
            faults.append(Fault("wrong type", name, f"({str(value.dtype).removeprefix('torch.')})"))
    return faults


def find_not_finite(
    given: Mapping[str, Any], on_bytes: Callable[[int], None] | None = None, dtype: torch.dtype | None = None
) -> list[Fault]:
    """Tensors that hold NaN or infinity, or numbers that become infinite in `dtype`; reads every number once.

    `on_bytes` receives every tensor's size.
    """
    faults = []
    for name, value in given.items():
        if isinstance(value, Tensor) and value.dtype in FLOAT_DTYPES and not value.is_meta:
            if not is_finite(value, dtype):
                faults.append(_not_finite(name, value, dtype or value.dtype))
            if on_bytes is not None:
                on_bytes(value.nbytes)
    return faults


def is_finite(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether no number is NaN or infinite, as it is or in `dtype`. Makes no copy as large as the tensor."""
    # The extremes are NaN where any number is, and infinite where one is; rounding keeps the order of numbers.
    extremes = (torch.stack(torch.aminmax(part)) for part in _parts(tensor) if len(part))
    return all(bool(torch.isfinite(pair.to(dtype or pair.dtype)).all()) for pair in extremes)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = tensor.detach().reshape(-1).split(_CHUNK)  # type: ignore[no-untyped-call]
    return parts


def _not_finite(name: str, tensor: Tensor, dtype: torch.dtype) -> Fault:
    if not is_finite(tensor):
        return Fault("not finite", name, "holds NaN or infinity")
    count = sum(int((~torch.isfinite(part.to(dtype))).sum()) for part in _parts(tensor))
    largest = max(float(part.abs().max()) for part in _parts(tensor) if len(part))
    kind = str(dtype).removeprefix("torch.")
    told = f"{count} of {tensor.numel()} numbers become infinite in {kind} (the largest is {largest:.6g})"
    return Fault("too large", name, told)


def refuse(what: str, faults: list[Fault]) -> None:
    """Raise `MisfitError` if there is any fault."""
    if faults:
        raise MisfitError(what, faults)


Module = TypeVar("Module", bound=nn.Module)


def on_meta(build: Callable[[], Module]) -> Module:
    """The module without memory for its weights: for names and shapes, or to adopt weights by `load_exactly`."""
    with torch.device("meta"):
        return build()


def load_exactly(
    module: Module, weights: Mapping[str, Any], what: str, leave: Iterable[str] = (), *, adopt: bool = False
) -> Module:
    """Give a module the weights, if they are exactly those that it has.

    Args:
        module: its parameters keep their type and device, unless `adopt`.
        weights: name -> tensor.
        what: name of the checkpoint in errors.
        leave: parts of names; parameters whose names contain one of them are neither expected nor touched.
        adopt: make the tensors themselves the parameters, without a copy: for modules `on_meta`. They may be
            memory-mapped, and read-only if the module is not trained.

    Raises:
        CheckpointError: `MisfitError` where a name, shape or type does not fit.
    """
    refuse(what, find_faults(expected_shapes(module, leave), weights))
    module.load_state_dict(dict(weights), strict=False, assign=adopt)
    return module
