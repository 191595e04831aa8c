# SPDX-License-Identifier: Apache-2.0
"""What a row of the op table is: an op's operands, shape rule, FLOPs and reference, and the checks that all ops share.

FLOPs count matrix multiplications only (2 per multiply-add), as the published figures do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from lightwam.engine.dtypes import EIGHT_BITS, DType, Shape
from lightwam.engine.graph import Attr, TensorType, WithAttrs, matrix_view
from lightwam.engine.lazy_torch import F
from lightwam.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh")
# Bounds of attrs and roles, and of numbers that round to a finite and to a positive float32 (csrc/engine).
MOST_COUNT, MOST_PADDING, MOST_ROLES = 1 << 16, 1 << 20, 256
F32_END, F32_HALF_SMALLEST = 2.0**128 - 2.0**103, 2.0**-150
AttrKind = Literal["count", "positive", "padding", "activation", "bound", "column"]


@dataclass(frozen=True)
class Role:
    """A named operand. `in_place`: the output may take its bytes. `variadic`: roles `name.0`, `name.1`, ..."""

    name: str
    optional: bool = False
    in_place: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Operands(WithAttrs):
    """What an op is applied to. `declared` holds the output types of the graph."""

    op: str
    inputs: Mapping[str, TensorType]
    constants: Mapping[str, TensorType]
    attrs: Mapping[str, Attr]
    declared: Mapping[str, TensorType] = field(default_factory=dict)

    def operand(self, role: str) -> TensorType:
        """The input or constant of that role."""
        return self.inputs[role] if role in self.inputs else self.constants[role]

    def require(self, condition: bool, what: str) -> None:
        """Raise a one-line `ExportError` that names the op and its operands."""
        if not condition:
            types = {role: str(tensor) for role, tensor in {**self.inputs, **self.constants}.items()}
            raise ExportError(f"op {self.op} needs {what}: it got {types} and attrs {dict(self.attrs)}")

    def require_bias_and_residual(self, columns: int, output: Shape) -> None:
        """The optional bias f32 [columns] and residual of the output's matrix view."""
        bias, residual = self.constants.get("bias"), self.inputs.get("residual")
        self.require(bias is None or bias == TensorType("f32", (columns,)), f"bias f32[{columns}]")
        self.require(residual is None or residual.matrix == matrix_view(output), f"residual {list(output)}")


@dataclass(frozen=True)
class Call(WithAttrs):
    """An op with its operands as tensors, for its reference.

    `declared`: the output types of the graph. `canvas`: the camera images on their canvas [H, W, 3], if there are any.
    """

    tensors: Mapping[str, Tensor]
    attrs: Mapping[str, Attr]
    declared: Mapping[str, TensorType]
    canvas: Tensor | None = None

    def __getitem__(self, role: str) -> Tensor:
        return self.tensors[role]

    def get(self, role: str) -> Tensor | None:
        return self.tensors.get(role)

    def matrix(self, role: str) -> Tensor:
        """The matrix view [R, C] of an operand."""
        x = self.tensors[role]
        return x.reshape(-1, x.shape[-1])

    def activate(self, x: Tensor) -> Tensor:
        """The op's activation of x."""
        kind = self.attrs["activation"]
        if kind == "none":
            return x
        return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")

    def add_bias(self, y: Tensor) -> Tensor:
        bias = self.get("bias")
        return y if bias is None else y + bias

    def add_residual(self, y: Tensor) -> Tensor:
        residual = self.get("residual")
        return y if residual is None else y + residual.reshape(y.shape)


ShapeRule = Callable[[Operands], dict[str, Shape]]
FlopRule = Callable[[Operands], int]
#: The op's output `y`, or its outputs by role.
Reference = Callable[[Call], "Tensor | dict[str, Tensor]"]
#: Of max |error| / max |reference|, by the format that an op computes in or writes.
TOLERANCE: Mapping[str, float] = {"f32": 1e-5, "bf16": 1e-2, "f16": 1.5e-3}
MATMUL_TOLERANCE = {**TOLERANCE, "i8": 3e-6, "f8": 3e-6}


@dataclass(frozen=True)
class OpSpec:
    """One row of the table.

    shape: the output shapes; raises on operands that do not fit. Where the graph decides a shape, it is `declared`.
    reference: the op in PyTorch, at the precision of its operands.
    outputs: their roles.
    matmul: the op multiplies by its constant `weight`.
    exact: the output's own dimensions follow from the operands, not only its matrix view.
    view: the output is another view of the bytes of `x`, so the op does no work.
    integers: roles that may (or must) hold whole numbers; where i8 may stand, f8 may.
    text_inputs: roles with a row for each row of the instruction.
    """

    name: str
    shape: ShapeRule
    reference: Reference
    inputs: tuple[Role, ...] = ()
    constants: tuple[Role, ...] = ()
    attrs: Mapping[str, AttrKind] = field(default_factory=dict)
    flops: FlopRule = lambda _: 0
    outputs: tuple[str, ...] = ("y",)
    matmul: bool = False
    exact: bool = False
    view: bool = False
    integers: Mapping[str, DType] = field(default_factory=dict)
    text_inputs: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=lambda: TOLERANCE)

    def in_place_roles(self) -> tuple[str, ...]:
        return tuple(role.name for role in self.inputs if role.in_place)

    def num_bytes(self, operands: Operands) -> int:
        """Bytes of every input, constant and output once."""
        groups = () if self.view else (operands.inputs, operands.constants, operands.declared)
        return sum(tensor.num_bytes for group in groups for tensor in group.values())

    def check(self, operands: Operands) -> dict[str, Shape]:
        """The output shapes. Raises `ExportError` on a missing, extra or misfit role, format or attr."""
        _check_roles(operands, self.inputs, operands.inputs, "input")
        _check_roles(operands, self.constants, operands.constants, "constant")
        named = set(operands.declared)
        first = not named or self.outputs[0] in named
        operands.require(first and named <= set(self.outputs), f"outputs among {list(self.outputs)}")
        operands.require(set(operands.attrs) == set(self.attrs), f"exactly the attrs {sorted(self.attrs)}")
        for name, kind in self.attrs.items():
            operands.require(_attr_fits(operands.attrs[name], kind), f"attr {name} of kind {kind}")
        _check_integers(self, operands)
        if self.matmul:
            _check_matmul_formats(operands)
        return self.shape(operands)


def _check_roles(operands: Operands, roles: tuple[Role, ...], given: Mapping[str, TensorType], kind: str) -> None:
    operands.require(len(given) <= MOST_ROLES, f"at most {MOST_ROLES} of its {kind}s")
    known = {role.name for role in roles}
    variadic = next((role.name for role in roles if role.variadic), None)
    for name in given:
        fits = name in known if variadic is None else name in {f"{variadic}.{i}" for i in range(len(given))}
        operands.require(fits, f"no {kind} {name!r} (its roles: {sorted(known)})")
    for role in roles:
        present = role.name in given or (role.variadic and f"{role.name}.0" in given)
        operands.require(role.optional or present, f"{kind} {role.name!r}")


def _attr_fits(attr: Attr, kind: AttrKind) -> bool:
    if kind == "activation":
        return attr in ACTIVATIONS
    if kind == "padding":
        sides = attr if isinstance(attr, tuple) else ()
        return len(sides) == 4 and all(type(side) is int and 0 <= side <= MOST_PADDING for side in sides)
    if kind == "count":
        return type(attr) is int and 0 < attr <= MOST_COUNT
    if kind == "column":
        return type(attr) is int and attr >= 0
    if kind == "bound" and attr is None:
        return True
    return type(attr) in (int, float) and _is_f32(cast(float, attr), kind == "positive")


def _is_f32(number: float, positive: bool) -> bool:
    """Whether a number is finite as a float32, and (if asked) more than 0 there."""
    if not abs(number) < F32_END:
        return False
    return not positive or number > F32_HALF_SMALLEST


def _check_integers(spec: OpSpec, operands: Operands) -> None:
    """Values and constants are f32, bf16 or f16, but where the op says otherwise."""
    groups = (operands.inputs, operands.constants, operands.declared)
    for role, tensor in ((role, tensor) for group in groups for role, tensor in group.items()):
        special = tensor.dtype in ("i32", *EIGHT_BITS)
        as_integer = "i8" if tensor.dtype == "f8" else tensor.dtype
        operands.require(not special or as_integer == spec.integers.get(role), f"no {tensor.dtype} as {role}")


def _check_matmul_formats(operands: Operands) -> None:
    x, weight = operands.inputs["x"].dtype, operands.constants["weight"].dtype
    fitting = (("f32", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("f16", "f16"), ("i8", "i8"), ("f8", "f8"))
    operands.require((x, weight) in fitting, "x and weight formats that fit")
    bias = operands.constants.get("bias")
    operands.require(bias is None or bias.dtype == "f32", "an f32 bias")


def same_as_x(o: Operands) -> dict[str, Shape]:
    """The shape rule of ops that keep x's shape."""
    return {"y": o.inputs["x"].shape}


X, X_IN_PLACE = Role("x"), Role("x", in_place=True)
RESIDUAL = Role("residual", optional=True, in_place=True)
WEIGHT, BIAS = Role("weight"), Role("bias", optional=True)
