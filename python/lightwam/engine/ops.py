# SPDX-License-Identifier: Apache-2.0
"""The op table (engine-format.md, section 4): one definition an op drives validation, counting and tests.

Symbols: R rows, S tokens, D width, K inner width, N output width, L context rows, E proprio rows, M slots, G groups.
FLOPs count the products only (2 per multiply-add), as the published figures do; bytes count every operand once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from lightwam.engine import attention_shapes as attention
from lightwam.engine.dtypes import EIGHT_BITS, DType, Shape, num_elements
from lightwam.engine.graph import Attr, TensorType
from lightwam.errors import ExportError

ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh")
#: Widest row of an eight-bit product: 255 * 127 * K fits a signed 32-bit sum.
MAX_QUANTISED_WIDTH = 66_311
AttrKind = Literal["count", "positive", "padding", "activation", "bound", "column"]


@dataclass(frozen=True)
class Role:
    """A named operand. `in_place`: the output may take its bytes. `variadic`: roles `name.0`, `name.1`, ..."""

    name: str
    optional: bool = False
    in_place: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Operands:
    """What an op is applied to. `declared` holds the output types of the graph."""

    op: str
    inputs: Mapping[str, TensorType]
    constants: Mapping[str, TensorType]
    attrs: Mapping[str, Attr]
    declared: Mapping[str, TensorType] = field(default_factory=dict)

    def operand(self, role: str) -> TensorType:
        """The input or constant of that role."""
        return self.inputs[role] if role in self.inputs else self.constants[role]

    def count(self, attr: str) -> int:
        value = self.attrs[attr]
        assert isinstance(value, int)
        return value

    def require(self, condition: bool, what: str) -> None:
        """Raise a one-line `ExportError` that names the op and its operands."""
        if not condition:
            types = {role: str(tensor) for role, tensor in {**self.inputs, **self.constants}.items()}
            raise ExportError(f"op {self.op} needs {what}: it got {types} and attrs {dict(self.attrs)}")


ShapeRule = Callable[[Operands], dict[str, Shape]]
FlopRule = Callable[[Operands], int]


@dataclass(frozen=True)
class OpSpec:
    """One row of the table. `shape` returns the output shapes and refuses operands that do not fit."""

    name: str
    shape: ShapeRule
    inputs: tuple[Role, ...]
    constants: tuple[Role, ...] = ()
    attrs: Mapping[str, AttrKind] = field(default_factory=dict)
    flops: FlopRule = lambda _: 0
    outputs: tuple[str, ...] = ("y",)
    product: bool = False
    free_shape: bool = False  # the graph declares the output shape, the rule checks it
    integers: Mapping[str, DType] = field(default_factory=dict)  # what may (or must) be whole; where i8 may, f8 may
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"f32": 1e-5, "bf16": 1e-2, "f16": 1.5e-3})

    def in_place_roles(self) -> tuple[str, ...]:
        return tuple(role.name for role in self.inputs if role.in_place)

    def check(self, operands: Operands) -> dict[str, Shape]:
        """The output shapes. Raises `ExportError` on a missing, extra or misfit role, format or attr."""
        _check_roles(self, operands, self.inputs, operands.inputs, "input")
        _check_roles(self, operands, self.constants, operands.constants, "constant")
        operands.require(set(operands.attrs) == set(self.attrs), f"exactly the attrs {sorted(self.attrs)}")
        for name, kind in self.attrs.items():
            operands.require(_attr_fits(operands.attrs[name], kind), f"attr {name} of kind {kind}")
        _check_integers(self, operands)
        if self.product:
            _check_product_formats(operands)
        return self.shape(operands)


def _check_roles(
    spec: OpSpec, operands: Operands, roles: tuple[Role, ...], given: Mapping[str, TensorType], kind: str
) -> None:
    known = {role.name for role in roles}
    variadic = next((role.name for role in roles if role.variadic), None)
    for name in given:
        stem, _, index = name.partition(".")
        fits = name in known if variadic is None else stem == variadic and index.isdigit() and int(index) < len(given)
        operands.require(fits, f"no {kind} {name!r} (its roles: {sorted(known)})")
    for role in roles:
        present = role.name in given or (role.variadic and f"{role.name}.0" in given)
        operands.require(role.optional or present, f"{kind} {role.name!r}")


def _attr_fits(attr: Attr, kind: AttrKind) -> bool:
    if kind == "activation":
        return attr in ACTIVATIONS
    if kind == "padding":
        return isinstance(attr, tuple) and len(attr) == 4 and all(isinstance(side, int) and side >= 0 for side in attr)
    if isinstance(attr, bool):
        return False
    if kind == "count":
        return isinstance(attr, int) and attr > 0
    if kind == "column":
        return isinstance(attr, int) and attr >= 0
    if kind == "bound":
        return attr is None or (isinstance(attr, (int, float)) and isfinite(attr))
    return isinstance(attr, (int, float)) and isfinite(attr) and attr > 0


def _check_integers(spec: OpSpec, operands: Operands) -> None:
    """Values and constants are f32, bf16 or f16, but where the op says otherwise."""
    groups = (operands.inputs, operands.constants, operands.declared)
    for role, tensor in ((role, tensor) for group in groups for role, tensor in group.items()):
        special = tensor.dtype in ("i32", *EIGHT_BITS)
        as_integer = "i8" if tensor.dtype == "f8" else tensor.dtype
        operands.require(not special or as_integer == spec.integers.get(role), f"no {tensor.dtype} as {role}")


def _check_product_formats(operands: Operands) -> None:
    x, weight = operands.inputs["x"].dtype, operands.constants["weight"].dtype
    fitting = (("f32", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("f16", "f16"), ("i8", "i8"), ("f8", "f8"))
    operands.require((x, weight) in fitting, "x and weight formats that fit")
    bias = operands.constants.get("bias")
    operands.require(bias is None or bias.dtype == "f32", "an f32 bias")


def _same_as_x(o: Operands) -> dict[str, Shape]:
    return {"y": o.inputs["x"].shape}


def _preprocess_images(o: Operands) -> dict[str, Shape]:
    shape = o.declared["y"].shape
    o.require(len(shape) == 3 and shape[2] == 3, "an output [height, width, 3]")
    return {"y": shape}


def _nchw_to_nhwc(o: Operands) -> dict[str, Shape]:
    shape = o.inputs["x"].shape
    o.require(len(shape) == 3, "x [C, h, w]")
    return {"y": (shape[1], shape[2], shape[0])}


def _conv2d(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"].shape, o.constants["weight"].shape
    o.require(len(x) == 3 and len(weight) == 4 and weight[3] == x[2], "x [h, w, Cin] and weight [Cout, kh, kw, Cin]")
    padding, stride = o.attrs["padding"], o.count("stride")
    assert isinstance(padding, tuple)
    top, left, bottom, right = padding
    height = (x[0] + top + bottom - weight[1]) // stride + 1
    width = (x[1] + left + right - weight[2]) // stride + 1
    o.require(
        x[0] + top + bottom >= weight[1] and x[1] + left + right >= weight[2], "an image no smaller than the kernel"
    )
    output = (height, width, weight[0])
    _check_bias_residual(o, weight[0], output)
    return {"y": output}


def _check_bias_residual(o: Operands, columns: int, output: Shape) -> None:
    bias, residual = o.constants.get("bias"), o.inputs.get("residual")
    o.require(bias is None or bias.shape == (columns,), f"bias [{columns}]")
    o.require(residual is None or residual.shape == output, f"residual {list(output)}")


def _conv2d_flops(o: Operands) -> int:
    height, width, _ = _conv2d(o)["y"]
    return 2 * height * width * num_elements(o.constants["weight"].shape)


def _linear(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"], o.constants["weight"].shape
    o.require(len(weight) == 2 and x.matrix[1] == weight[1], "x [..., K] and weight [N, K]")
    output = (*x.shape[:-1], weight[0])
    _check_bias_residual(o, weight[0], output)
    _check_scales(o)
    return {"y": output}


def _check_scales(o: Operands) -> None:
    """The eight-bit forms have scales, of integers zeros too; the others have none."""
    rows, in_dim = o.inputs["x"].matrix
    quantised, integers = o.inputs["x"].dtype in EIGHT_BITS, o.inputs["x"].dtype == "i8"
    given = {**o.inputs, **o.constants}
    wanted = {
        "x_scale": TensorType("f32", (rows,)),
        "x_zero": TensorType("i32", (rows,)),
        "weight_scale": TensorType("f32", o.constants["weight"].matrix[:1]),
    }
    for role, tensor in wanted.items():
        needed = integers if role == "x_zero" else quantised
        which = "i8" if role == "x_zero" else "i8 or f8"
        o.require(given.get(role) == (tensor if needed else None), f"{role} {tensor} if x is {which}, else none")
    o.require(not integers or in_dim <= MAX_QUANTISED_WIDTH, f"at most {MAX_QUANTISED_WIDTH} columns of i8")


def _quantize_rows(o: Operands) -> dict[str, Shape]:
    rows = (o.inputs["x"].matrix[0],)
    formats = {role: tensor.dtype for role, tensor in o.declared.items()}
    integers: dict[str, DType] = {"y": "i8", "scale": "f32", "zero": "i32"}
    floats: dict[str, DType] = {"y": "f8", "scale": "f32"}
    o.require(formats in ({}, integers, floats), "outputs y i8, scale f32, zero i32, or y f8, scale f32")
    shapes = {"y": o.inputs["x"].shape, "scale": rows, "zero": rows}
    return {role: shape for role, shape in shapes.items() if role in (formats or integers)}


def _linear_flops(o: Operands) -> int:
    return 2 * o.inputs["x"].matrix[0] * num_elements(o.constants["weight"].shape)


def _grouped_linear(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"].shape, o.constants["weight"].shape
    o.require(len(x) == 3 == len(weight) and x[1:] == (weight[0], weight[2]), "x [M, G, K] and weight [G, N, K]")
    output = (x[0], weight[0] * weight[1])
    _check_bias_residual(o, output[1], output)
    _check_scales(o)
    return {"y": output}


def _grouped_linear_flops(o: Operands) -> int:
    return 2 * o.inputs["x"].shape[0] * num_elements(o.constants["weight"].shape)


def _norm(o: Operands) -> dict[str, Shape]:
    columns = o.inputs["x"].matrix[1]
    for role, tensor in o.constants.items():
        o.require(tensor == TensorType("f32", (columns,)), f"{role} f32[{columns}]")
    o.require(o.op == "rms_norm" or len(o.constants) in (0, 2), "weight and bias together, or neither")
    return _same_as_x(o)


def _rms_norm_rope(o: Operands) -> dict[str, Shape]:
    tokens, columns = o.inputs["x"].matrix
    heads = o.count("heads")
    o.require(columns % (2 * heads) == 0, "heads of an even width")
    table = TensorType("f32", (tokens, columns // heads // 2))
    o.require(o.constants["weight"] == TensorType("f32", (columns,)), f"weight f32[{columns}]")
    o.require(o.constants["cos"] == table == o.constants["sin"], f"cos and sin {table}")
    return _same_as_x(o)


def _text_key_bias(o: Operands) -> dict[str, Shape]:
    rows = o.declared["key_bias"].shape
    o.require(o.inputs["text_rows"] == TensorType("i32", (1,)), "text_rows i32[1]")
    o.require(len(rows) == 1 and o.declared["key_count"].dtype == "i32", "key_bias [L] and key_count i32[1]")
    return {"key_bias": rows, "key_count": (1,)}


def _learned_query_pool(o: Operands) -> dict[str, Shape]:
    _, width = o.inputs["x"].matrix
    scores, merge = o.constants["scores"], o.constants["merge"]
    heads, queries = o.count("heads"), o.count("queries")
    o.require(scores == TensorType("f32", (heads * queries, width)), "scores f32[heads*queries, D]")
    o.require(merge.dtype == "f32" and len(merge.shape) == 2 and merge.shape[1] == queries, "merge f32[M, queries]")
    return {"y": (merge.shape[0], heads, width)}


def _learned_query_pool_flops(o: Operands) -> int:
    """Scores, then weighted token means; mixing the queries' probabilities first leaves heads*M rows to sum."""
    tokens, width = o.inputs["x"].matrix
    rows = o.constants["scores"].shape[0] + o.count("heads") * o.constants["merge"].shape[0]
    return 2 * tokens * width * rows


def _mean_pool(o: Operands) -> dict[str, Shape]:
    return {"y": (1, o.inputs["x"].matrix[1])}


def _add_subtract(o: Operands) -> dict[str, Shape]:
    o.require(
        ("a" in o.inputs) != ("a" in o.constants) and ("b" in o.inputs) != ("b" in o.constants), "one a and one b"
    )
    o.require(bool(o.inputs), "at least one input that is no constant")
    a, b = o.operand("a"), o.operand("b")
    o.require(a.shape == b.shape or b.matrix == (1, a.matrix[1]), "b of a's shape or [1, D]")
    return {"y": a.shape}


def _concat(o: Operands) -> dict[str, Shape]:
    parts = [o.inputs[f"x.{index}"].matrix for index in range(len(o.inputs))]
    o.require(len({rows for rows, _ in parts}) == 1, "parts of one number of rows")
    return {"y": (parts[0][0], sum(columns for _, columns in parts))}


def _scale_shift_clamp(o: Operands) -> dict[str, Shape]:
    vector = TensorType("f32", (o.inputs["x"].matrix[1],))
    o.require(o.constants["scale"] == vector == o.constants["shift"], f"scale and shift {vector}")
    return _same_as_x(o)


def _gripper_rule(o: Operands) -> dict[str, Shape]:
    o.require(o.count("column") < o.inputs["x"].matrix[1], "a column of x")
    return _same_as_x(o)


def _reshape(o: Operands) -> dict[str, Shape]:
    x, y = o.inputs["x"], o.declared["y"]
    o.require(x.dtype == y.dtype and num_elements(x.shape) == num_elements(y.shape), "an output of x's format and size")
    return {"y": y.shape}


_X = Role("x")
_X_IN_PLACE = Role("x", in_place=True)
_RESIDUAL = Role("residual", optional=True, in_place=True)
_WEIGHT, _BIAS = Role("weight"), Role("bias", optional=True)
_X_SCALES = (Role("x_scale", optional=True), Role("x_zero", optional=True))
_WEIGHT_SCALE = Role("weight_scale", optional=True)
_EIGHT_BIT: Mapping[str, DType] = {"x": "i8", "x_zero": "i32", "weight": "i8"}
_PRODUCT_TOLERANCE = {"f32": 1e-5, "bf16": 1e-2, "f16": 1.5e-3, "i8": 3e-6, "f8": 3e-6}
_CROSS_INPUTS = (
    *(Role(name) for name in ("q", "key_text", "value_text", "key_bias", "key_count")),
    Role("key_proprio", optional=True),
    Role("value_proprio", optional=True),
)
_CROSS_FOLDED_INPUTS = (
    *(Role(name) for name in ("q", "key_text", "output_text", "key_bias", "key_count")),
    Role("key_proprio", optional=True),
    Role("output_proprio", optional=True),
    _RESIDUAL,
)
_ADDENDS = (Role("a", optional=True, in_place=True), Role("b", optional=True))
_ADDEND_CONSTANTS = (Role("a", optional=True), Role("b", optional=True))

_SPECS = (
    OpSpec("preprocess_images", _preprocess_images, (), free_shape=True),
    OpSpec("nchw_to_nhwc", _nchw_to_nhwc, (_X,)),
    OpSpec("conv2d", _conv2d, (_X, _RESIDUAL), (_WEIGHT, _BIAS),
           {"stride": "count", "padding": "padding", "activation": "activation"}, _conv2d_flops, product=True),
    OpSpec("linear", _linear, (_X, _RESIDUAL, *_X_SCALES), (_WEIGHT, _BIAS, _WEIGHT_SCALE),
           {"activation": "activation"}, _linear_flops, product=True, integers=_EIGHT_BIT,
           tolerance=_PRODUCT_TOLERANCE),
    OpSpec("quantize_rows", _quantize_rows, (_X,), outputs=("y", "scale", "zero"),
           integers={"y": "i8", "zero": "i32"}),
    OpSpec("grouped_linear", _grouped_linear, (_X, *_X_SCALES), (_WEIGHT, _BIAS, _WEIGHT_SCALE), {},
           _grouped_linear_flops, product=True, integers=_EIGHT_BIT, tolerance=_PRODUCT_TOLERANCE),
    OpSpec("layer_norm", _norm, (_X_IN_PLACE,), (Role("weight", optional=True), _BIAS), {"eps": "positive"}),
    OpSpec("rms_norm", _norm, (_X_IN_PLACE,), (_WEIGHT,), {"eps": "positive", "activation": "activation"}),
    OpSpec("rms_norm_rope", _rms_norm_rope, (_X_IN_PLACE,), (_WEIGHT, Role("cos"), Role("sin")),
           {"eps": "positive", "heads": "count"}),
    OpSpec("self_attention", attention.self_attention, (Role("q"), Role("k"), Role("v")), (),
           {"heads": "count", "scale": "positive"}, attention.self_attention_flops),
    OpSpec("cross_attention", attention.cross_attention, _CROSS_INPUTS, (), {"heads": "count", "scale": "positive"},
           attention.cross_attention_flops, integers={"key_count": "i32"}),
    OpSpec("cross_attention_folded", attention.cross_attention_folded, _CROSS_FOLDED_INPUTS, (_BIAS,),
           {"heads": "count", "scale": "positive"}, attention.cross_attention_folded_flops,
           integers={"key_count": "i32"}),
    OpSpec("text_key_bias", _text_key_bias, (Role("text_rows"),), outputs=("key_bias", "key_count"), free_shape=True,
           integers={"text_rows": "i32", "key_count": "i32"}),
    OpSpec("learned_query_pool", _learned_query_pool, (_X,), (Role("scores"), Role("merge")),
           {"heads": "count", "queries": "count", "eps": "positive"}, _learned_query_pool_flops),
    OpSpec("mean_pool", _mean_pool, (_X,)),
    OpSpec("add", _add_subtract, _ADDENDS, _ADDEND_CONSTANTS),
    OpSpec("subtract", _add_subtract, _ADDENDS, _ADDEND_CONSTANTS),
    OpSpec("concat", _concat, (Role("x", variadic=True),)),
    OpSpec("scale_shift_clamp", _scale_shift_clamp, (_X_IN_PLACE,), (Role("scale"), Role("shift")),
           {"minimum": "bound", "maximum": "bound"}),
    OpSpec("gripper_rule", _gripper_rule, (_X_IN_PLACE,), (), {"column": "column"}),
    OpSpec("cast", _same_as_x, (_X,)),
    OpSpec("reshape", _reshape, (_X,), free_shape=True),
)  # fmt: skip

#: Op name -> definition: the closed set.
OPS: dict[str, OpSpec] = {spec.name: spec for spec in _SPECS}
#: The ops that have an eight-bit form.
EIGHT_BIT_PRODUCTS = tuple(spec.name for spec in _SPECS if spec.integers.get("weight") == "i8")


def operands_bytes(operands: Operands) -> int:
    """Bytes of every input, constant and output once; 0 for `reshape`, which does no work."""
    if operands.op == "reshape":
        return 0
    groups = (operands.inputs, operands.constants, operands.declared)
    return sum(tensor.num_bytes for group in groups for tensor in group.values())
