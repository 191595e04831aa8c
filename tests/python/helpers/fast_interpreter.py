# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter with less bookkeeping: types and shapes that it makes for every step are made once.

It changes no number: about a third of an interpreted launch goes into building equal types again and again. Like
lightwam.kernels.interpreter.patches it depends on the inside of one Triton release, which constraints.txt pins.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from triton import language as tl
from triton.runtime import interpreter

_BLOCK_FIELDS: dict[tuple[Any, ...], tuple[Any, ...]] = {}
_TENSOR_FIELDS: dict[tuple[int, ...], tuple[Any, ...]] = {}
_NUMPY_TYPES: dict[str, Any] = {}


@cache
def speed_up() -> None:
    """Patch Triton's types in this process, once."""
    block, tensor, dtype = tl.core.block_type, tl.core.tensor, tl.core.dtype
    make_block, make_tensor, equal, numpy_type = (
        block.__init__,
        tensor.__init__,
        dtype.__eq__,
        interpreter._get_np_dtype,
    )

    def init_block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(size.value if isinstance(size, tl.constexpr) else size for size in shape))
        if key in _BLOCK_FIELDS:
            self.element_ty = element_ty
            self.shape, self.numel, self.name = _BLOCK_FIELDS[key]
        else:
            make_block(self, element_ty, shape)
            _BLOCK_FIELDS[key] = self.shape, self.numel, self.name

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        key = tuple(type.shape.values) if isinstance(type, block) else ()
        if key in _TENSOR_FIELDS:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = _TENSOR_FIELDS[key]
        else:
            make_tensor(self, handle, type)
            _TENSOR_FIELDS[key] = self.shape, self.numel

    def get_numpy_type(type: Any) -> Any:
        if type.name not in _NUMPY_TYPES:
            _NUMPY_TYPES[type.name] = numpy_type(type)
        return _NUMPY_TYPES[type.name]

    block.__init__, tensor.__init__, interpreter._get_np_dtype = init_block, init_tensor, get_numpy_type
    dtype.__eq__ = lambda self, other: self is other or equal(self, other)
