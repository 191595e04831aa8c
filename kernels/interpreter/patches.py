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
from dataclasses import replace
from functools import cache
from inspect import getattr_static
from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.jit import JITFunction

from lightwam.kernels.formats import Array, bfloat16_bits, bfloat16_values, e4m3_bits, e4m3_values
from lightwam.kernels.interpreter import lanes
from lightwam.kernels.interpreter.lanes import same_shape
from lightwam.kernels.interpreter.running import RUNNING, TAG_SHIFT, Extent, LaunchError, Running
from lightwam.kernels.task import Mode

__all__ = ["Extent", "LaunchError", "patched", "rewritten"]

ADDRESS_MASK = np.uint64((1 << TAG_SHIFT) - 1)
# The interpreter's state is global to the process: one launch at a time.
_LOCK = threading.RLock()
_Handle = triton_interpreter.TensorHandle
_Builder = triton_interpreter.InterpreterBuilder


class _Rewriter(triton_interpreter.FunctionRewriter):  # type: ignore[misc]
    """Triton's rewriter on a source that is already read; it leaves the globals of the kernel's module alone."""

    def __init__(self, function: Any) -> None:
        super().__init__(function.fn)
        self.filename, self.def_file_lineno = function.file_name, function.def_file_line_number
        self.def_lineno = self._find_def(function.raw_src)
        self.source = self._prepare_source(function.raw_src)

    def rewrite_ast(self) -> Any:
        return self._compile_and_exec(self._transform_ast(self.source))

    def _compile_and_exec(self, transformed_ast: Any) -> Any:
        code = compile(transformed_ast, filename=self.filename, mode="exec")
        found: dict[str, Any] = {}
        exec(code, {**vars(triton_interpreter), **self.fn.__globals__}, found)
        return found[self.fn.__name__]


_REWRITTEN: dict[Any, Callable[..., Any]] = {}


def rewritten(function: Any) -> Callable[..., Any]:
    """A `@triton.jit` function in the plain form that the interpreter executes."""
    if function.fn not in _REWRITTEN:  # Triton's own hash of a function reads all that it calls
        _REWRITTEN[function.fn] = _Rewriter(function).rewrite_ast()
    return _REWRITTEN[function.fn]


@contextmanager
def patched(kernel: str, extents: Sequence[Extent]) -> Iterator[Running]:
    """The patched interpreter in place of `triton.language`, accesses held against `extents`; undone at the end."""
    with _LOCK, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows of NaN in maxima: computed as on the device
        scope = triton_interpreter._LangPatchScope()
        try:
            for place, name, value in _patches():
                scope.set_attr(place, name, value)
            RUNNING.kernel, RUNNING.extents = kernel, extents
            yield RUNNING
        finally:
            scope.restore()
            RUNNING.extents, RUNNING.written = (), []


@cache
def _patches() -> list[tuple[Any, str, Any]]:
    """What a launch changes: where, under which name, to what."""
    # Kernels see the language as `triton.language`, its standard library as `core`.
    scope = triton_interpreter._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    try:
        scope.set_attr(JITFunction, "__call__", lambda self, *args, **kwargs: rewritten(self)(*args, **kwargs))
        for methods in (_narrow_methods(), lanes.methods(), _checked_accesses(), {"create_dot": _create_dot}):
            for name, method in methods.items():
                scope.set_attr(_Builder, name, method)
        # Triton computes its check of overflow and, as `debug` is off, drops it.
        builder = triton_interpreter.interpreter_builder
        scope.set_attr(builder, "options", replace(builder.options, sanitize_overflow=False))
        lanes.patch_language(scope)
        return [(place, name, getattr_static(place, name)) for place, name, _ in scope._changes]
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


def _create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    if a.dtype.scalar == tl.float32 and input_precision == triton_interpreter._ir.INPUT_PRECISION.TF32:
        raise LaunchError(f'kernel {RUNNING.kernel}: a float32 matmul needs input_precision="ieee" or "tf32x3"')
    # Sums of products of 8 bits are exact in float64; so BLAS does all of them.
    compute = np.float64 if a.data.dtype.kind in "iu" and a.dtype.scalar not in _NARROW else np.float32
    product = _widened(a).data.astype(compute) @ _widened(b).data.astype(compute)
    return _Handle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)


def _checked_accesses() -> dict[str, Callable[..., Any]]:
    load, store = _Builder.create_masked_load, _Builder.create_masked_store

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, cache_policy: Any, is_volatile: Any) -> Any:
        places, used = same_shape(pointers, mask)
        _check(pointers, places if used.all() else places[used], "r")
        if other is not None:
            other = _Handle(np.ascontiguousarray(np.broadcast_to(other.data, places.shape)), other.dtype)
        plain = _Handle(places & ADDRESS_MASK, pointers.dtype)
        return load(self, plain, _Handle(used, mask.dtype), other, cache_policy, is_volatile)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, cache_policy: Any) -> Any:
        if value.data.dtype.itemsize != triton_interpreter._get_np_dtype(pointers.get_element_ty()).itemsize:
            raise LaunchError(
                f"kernel {RUNNING.kernel}: stores {value.data.dtype} through a pointer to {pointers.dtype}"
            )
        places, values, used = same_shape(pointers, value, mask, lanes=len(RUNNING.programs))
        _check(pointers, places if used.all() else places[used], "w")
        plain = _Handle(places & ADDRESS_MASK, pointers.dtype)
        return store(self, plain, _Handle(values, value.dtype), _Handle(used, mask.dtype), cache_policy)

    return {"create_masked_load": masked_load, "create_masked_store": masked_store}


def _check(pointers: Any, used: Array, mode: Mode) -> None:
    """Every address in use lies in the extent that its tag names; notes writes."""
    if not used.size:
        return
    size = triton_interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
    # Offsets below the argument's start borrow from the tag, so hold the smallest and largest against one extent.
    lowest, highest = int(used.min()), int(used.max())
    candidates = [
        (e, lowest - e.tagged(number), highest - e.tagged(number)) for number, e in enumerate(RUNNING.extents)
    ]
    extent, first, last = min(candidates, key=lambda c: abs(c[1]))
    verb = "reads" if mode == "r" else "writes"
    if first < 0 or last + size > extent.num_bytes:
        raise LaunchError(
            f"kernel {RUNNING.kernel}: {verb} bytes {first} to {last + size} of {extent.name}, "
            f"which has {extent.num_bytes}"
        )
    if extent.mode != mode:
        raise LaunchError(f'kernel {RUNNING.kernel}: {verb} {extent.name}, an argument of mode "{extent.mode}"')
    if extent.writes is not None:
        RUNNING.written.append((extent.writes, (used - np.uint64(lowest - first)).astype(np.int64) // size))
