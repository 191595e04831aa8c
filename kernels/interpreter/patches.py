# SPDX-License-Identifier: Apache-2.0
"""What `interpret` changes in Triton's interpreter, for the time of one launch. See there.

Everything here leans on the inside of one Triton release (constraints.txt pins it); its test would notice a change.
"""

from __future__ import annotations

import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.jit import JITFunction

from lightwam.kernels.formats import Array, bfloat16_bits, bfloat16_values, e4m3_bits, e4m3_values
from lightwam.kernels.task import Mode

TAG_SHIFT = np.uint64(56)  # addresses of processes use the 47 or 48 bits below
ADDRESS_MASK = np.uint64((1 << 56) - 1)
# The interpreter's state is global to the process: one launch at a time.
_LOCK = threading.RLock()
_Handle = triton_interpreter.TensorHandle
_Builder = triton_interpreter.InterpreterBuilder


class LaunchError(Exception):
    """A kernel touched memory that is not its argument's, or did something the interpreter would compute wrongly."""


@dataclass(frozen=True)
class Extent:
    """The memory of one argument; `writes`, if there, counts the writes of every element."""

    name: str
    mode: Mode
    address: int
    num_bytes: int
    writes: Array | None = None

    def tagged(self, number: int) -> int:
        """The address with the argument's number in its topmost byte."""
        return self.address | number << int(TAG_SHIFT)


class _Rewriter(triton_interpreter.FunctionRewriter):  # type: ignore[misc]
    """Triton's rewriter, that leaves the globals of the kernel's module alone."""

    def _compile_and_exec(self, transformed_ast: Any) -> Any:
        code = compile(transformed_ast, filename=self.filename, mode="exec")
        found: dict[str, Any] = {}
        exec(code, {**vars(triton_interpreter), **self.fn.__globals__}, found)
        return found[self.fn.__name__]


_REWRITTEN: dict[Any, Callable[..., Any]] = {}


def rewritten(function: Any) -> Callable[..., Any]:
    """The plain function under a `@triton.jit` one, in the form that the interpreter executes."""
    if function not in _REWRITTEN:
        _REWRITTEN[function] = _Rewriter(function).rewrite_ast()
    return _REWRITTEN[function]


@contextmanager
def patched(kernel: str, extents: Sequence[Extent]) -> Iterator[None]:
    """The patched interpreter in place of `triton.language`, accesses held against `extents`; undone at the end."""
    with _LOCK, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows of NaN in maxima: computed as on the device
        # Kernels see the language as `triton.language`, its standard library as `core`.
        scope = triton_interpreter._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        try:
            scope.set_attr(JITFunction, "__call__", lambda self, *args, **kwargs: rewritten(self.fn)(*args, **kwargs))
            for name, method in _narrow_methods().items():
                scope.set_attr(_Builder, name, method)
            for name, method in _checked_accesses(kernel, extents).items():
                scope.set_attr(_Builder, name, method)
            scope.set_attr(_Builder, "create_dot", _dot(kernel))
            yield
        finally:
            scope.restore()


#: Formats that NumPy lacks: their bits to float32 values, and back, rounded.
_NARROW: dict[Any, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    tl.bfloat16: (bfloat16_values, bfloat16_bits),
    tl.float8e4nv: (e4m3_values, e4m3_bits),
}


def _widened(handle: Any) -> Any:
    """A handle of a narrow format as float32, others as they are."""
    element = handle.dtype.scalar
    return _Handle(_NARROW[element][0](handle.data), tl.float32) if element in _NARROW else handle


def _narrowed(handle: Any) -> Any:
    """A float32 result back in bfloat16; truth values as they are."""
    if handle.data.dtype == np.bool_:
        return _Handle(handle.data, tl.bfloat16)
    return _Handle(bfloat16_bits(handle.data), tl.bfloat16)


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    """An operation of the builder, (self, handles..., function), that computes bfloat16 operands in float32."""

    def method(self: Any, *args: Any) -> Any:
        if not any(isinstance(arg, _Handle) and arg.dtype.scalar == tl.bfloat16 for arg in args):
            return original(self, *args)
        return _narrowed(original(self, *(_widened(arg) if isinstance(arg, _Handle) else arg for arg in args)))

    return method


def _narrow_methods() -> dict[str, Callable[..., Any]]:
    cast = _Builder.cast_impl

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        element = target.scalar
        if element in _NARROW:
            if source.dtype.scalar == element:
                return source
            return _Handle(_NARROW[element][1](_widened(source).data.astype(np.float32)), element)
        return cast(self, _widened(source), target)

    def fp_to_fp(self: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        del rounding_mode  # to nearest even is the only one that kernels here use
        return cast_impl(self, source, target)

    def fabs(self: Any, source: Any) -> Any:
        return self.unary_op(source, np.abs)

    return {
        "cast_impl": cast_impl,
        "create_fp_to_fp": fp_to_fp,
        "create_fabs": fabs,
        "binary_op": _in_float32(_Builder.binary_op),
        "unary_op": _in_float32(_Builder.unary_op),
        "create_rsqrt": _in_float32(_Builder.create_rsqrt),
        "create_fma": _in_float32(_Builder.create_fma),
        "create_erf": _in_float32(_Builder.create_erf),
    }


def _dot(kernel: str) -> Callable[..., Any]:
    tf32 = triton_interpreter._ir.INPUT_PRECISION.TF32

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        if a.dtype.scalar == tl.float32 and input_precision == tf32:
            raise LaunchError(f'kernel {kernel}: a float32 matmul needs input_precision="ieee" or "tf32x3"')
        # Sums of products of 8 bits are exact in float64; so BLAS does all of them.
        compute = np.float64 if a.data.dtype.kind in "iu" and a.dtype.scalar not in _NARROW else np.float32
        product = _widened(a).data.astype(compute) @ _widened(b).data.astype(compute)
        return _Handle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    return create_dot


def _checked_accesses(kernel: str, extents: Sequence[Extent]) -> dict[str, Callable[..., Any]]:
    load, store = _Builder.create_masked_load, _Builder.create_masked_store

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, cache_policy: Any, is_volatile: Any) -> Any:
        _check(kernel, extents, pointers, mask, "r")
        plain = _Handle(pointers.data & ADDRESS_MASK, pointers.dtype)
        return load(self, plain, mask, other, cache_policy, is_volatile)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, cache_policy: Any) -> Any:
        if value.data.dtype.itemsize != triton_interpreter._get_np_dtype(pointers.get_element_ty()).itemsize:
            raise LaunchError(f"kernel {kernel}: stores {value.data.dtype} through a pointer to {pointers.dtype}")
        _check(kernel, extents, pointers, mask, "w")
        return store(self, _Handle(pointers.data & ADDRESS_MASK, pointers.dtype), value, mask, cache_policy)

    return {"create_masked_load": masked_load, "create_masked_store": masked_store}


def _check(kernel: str, extents: Sequence[Extent], pointers: Any, mask: Any, mode: Mode) -> None:
    """Every address in use lies in the extent that its tag names; counts writes."""
    used = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
    if not used.size:
        return
    size = triton_interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
    # Offsets below the argument's start borrow from the tag, so hold the smallest and largest against one extent.
    lowest, highest = int(used.min()), int(used.max())
    candidates = [(e, lowest - e.tagged(number), highest - e.tagged(number)) for number, e in enumerate(extents)]
    extent, first, last = min(candidates, key=lambda c: abs(c[1]))
    verb = "reads" if mode == "r" else "writes"
    if first < 0 or last + size > extent.num_bytes:
        raise LaunchError(
            f"kernel {kernel}: {verb} bytes {first} to {last + size} of {extent.name}, which has {extent.num_bytes}"
        )
    if extent.mode != mode:
        raise LaunchError(f'kernel {kernel}: {verb} {extent.name}, an argument of mode "{extent.mode}"')
    if extent.writes is not None:
        np.add.at(extent.writes, (used - np.uint64(lowest - first)).astype(np.int64) // size, 1)
