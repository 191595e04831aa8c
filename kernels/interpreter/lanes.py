# SPDX-License-Identifier: Apache-2.0
"""Many programs of a launch at once: every array of the interpreter has a first axis with one entry, a lane, a program.

A value that is the same in all programs has one lane, and NumPy broadcasts it. Python's control flow follows a single
program; where programs part (`if` on a program's number, a loop to a bound of its own), `Parted` names the sides, and
`interpret` runs each side alone, from its start: programs only read what no program of a launch writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as triton_interpreter

from lightwam.kernels.formats import Array
from lightwam.kernels.interpreter.running import RUNNING, LaunchError

_Handle = triton_interpreter.TensorHandle
_UNKNOWN = (
    "atomic_cas", "atomic_load", "atomic_poll", "atomic_rmw", "atomic_store", "cat", "descriptor_gather",
    "descriptor_load", "descriptor_scatter", "descriptor_store", "dot_scaled", "histogram", "make_tensor_descriptor",
    "print",
)  # fmt: skip


class Parted(Exception):
    """Lanes where a number that decides what is executed differs: the lanes of each value."""

    def __init__(self, values: Array) -> None:
        super().__init__("programs part")
        self.sides = [np.flatnonzero(values == value) for value in np.unique(values)]


def methods() -> dict[str, Callable[..., Any]]:
    """The interpreter's builder for lanes."""

    def refuse(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise LaunchError(f"kernel {RUNNING.kernel}: {name} is not interpreted; use loads, stores and dots")

        return method

    return {
        **{f"create_{name}": refuse(name) for name in _UNKNOWN},
        "create_get_program_id": lambda self, axis: _Handle(RUNNING.programs[:, axis], tl.int32),
        "create_make_range": lambda self, type, start, stop: _Handle(
            np.arange(start, stop, dtype=np.int32)[None], tl.int32
        ),
        "create_reshape": lambda self, x, shape, reorder: _like(x, x.data.reshape(len(x.data), *shape)),
        "create_trans": lambda self, x, axes: _like(x, x.data.transpose(0, *(axis + 1 for axis in axes))),
        "create_expand_dims": lambda self, x, axis: _like(x, np.expand_dims(x.data, axis + 1)),
        "create_broadcast": lambda self, x, shape: _like(x, np.broadcast_to(x.data, (len(x.data), *shape))),
        "create_splat": _splat,
        "create_unsplat": lambda self, x: _like(x, x.data.reshape(len(x.data))),
        "create_join": lambda self, x, y: _like(x, np.stack(np.broadcast_arrays(x.data, y.data), axis=-1)),
        "create_gather": lambda self, x, places, axis: _like(x, np.take_along_axis(x.data, places.data, axis + 1)),
    }


def _like(handle: Any, data: Array) -> Any:
    return _Handle(data, handle.dtype.scalar)


def _splat(self: Any, block_type: Any, x: Any) -> Any:
    shape = block_type.shape
    data = x.data.reshape(len(x.data), *(1 for _ in shape))
    data = data.astype(triton_interpreter._get_np_dtype(x.dtype), copy=False)
    return _like(x, np.broadcast_to(data, (len(data), *shape)))


def _decided(tensor: Any) -> Any:
    """The number of a scalar, the same in all lanes. Parted if it is not."""
    data = tensor.handle.data.reshape(-1)
    if len(data) > 1 and (data != data[0]).any():
        raise Parted(data)
    return data[0]


def _truth(self: Any) -> bool:
    return bool(_decided(self)) if self.numel.value == 1 else True  # of a block: as in Triton's own


def _transposed(self: Any) -> Any:
    *outer, rows, columns = self.type.shape
    handle = _like(self.handle, self.handle.data.swapaxes(-1, -2))
    return tl.core.tensor(handle, tl.core.block_type(self.dtype, [*outer, columns, rows]))


#: How NumPy combines what a kernel reduces with; NaN is passed over by maxima and minima, as on the device.
_REDUCTIONS: dict[Any, Callable[..., Array]] = {
    tl.standard._sum_combine: np.sum,
    tl.standard._elementwise_max: np.fmax.reduce,
    tl.standard._elementwise_min: np.fmin.reduce,
}


def _reduced(tensor: Any, axis: int | None, keep_dims: bool, combine: Callable[..., Array]) -> Any:
    data, shape = tensor.handle.data, [int(size) for size in tensor.type.shape]
    at = 0 if axis is None else axis % len(shape)
    kept = [1 if axis is None or place == at else size for place, size in enumerate(shape)]
    left = kept if keep_dims else [] if axis is None else shape[:at] + shape[at + 1 :]
    if axis is None:
        data = data.reshape(len(data), math.prod(shape))
    made = combine(data, axis=at + 1).astype(triton_interpreter._get_np_dtype(tensor.dtype), copy=False)
    handle = _Handle(made.reshape(len(made), *left), tensor.dtype)
    return tl.core.tensor(handle, tl.block_type(tensor.dtype, left) if left else tensor.dtype)


def patch_language(scope: Any) -> None:
    """What the language itself does with arrays: truth, numbers, transposes, reductions."""

    def reduce(tensor: Any, axis: Any, combine_fn: Any, keep_dims: Any = False, **_: Any) -> Any:
        if combine_fn not in _REDUCTIONS or isinstance(tensor, tuple):
            raise LaunchError(f"kernel {RUNNING.kernel}: only sums, maxima and minima of one tensor are interpreted")
        axis, keep_dims = (getattr(value, "value", value) for value in (axis, keep_dims))
        return _reduced(tensor, axis, keep_dims, _REDUCTIONS[combine_fn])

    def scan(*args: Any, **kwargs: Any) -> Any:
        raise LaunchError(f"kernel {RUNNING.kernel}: scans are not interpreted; use sums")

    scope.set_attr(tl.tensor, "__bool__", _truth)
    scope.set_attr(tl.tensor, "__index__", lambda self: int(_decided(self)))
    scope.set_attr(tl.tensor, "T", property(_transposed))
    for language in (tl, tl.core):
        scope.set_attr(language, "reduce", reduce)
        scope.set_attr(language, "associative_scan", scan)


def same_shape(*handles: Any, lanes: int = 1) -> list[Array]:
    """The arrays of handles in one shape and with their own memory, as loads and stores need them."""
    shape = np.broadcast_shapes(*(handle.data.shape for handle in handles))
    return [np.ascontiguousarray(np.broadcast_to(x.data, (max(lanes, shape[0]), *shape[1:]))) for x in handles]
