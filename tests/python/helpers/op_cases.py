# SPDX-License-Identifier: Apache-2.0
"""A table of op cases, each runnable as an engine of its own (one_op.py): what every backend is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lightwam.engine.dtypes import DType
from lightwam.engine.graph import Attr, Precision, TensorType
from lightwam.engine.ops import OPS


@dataclass(frozen=True)
class OpCase:
    """One op at one size. Values that only `set_instruction` can make (`key_bias`, `key_count`) are not listed."""

    op: str
    label: str
    inputs: Mapping[str, TensorType]
    constants: Mapping[str, TensorType] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    output: DType = "f32"
    text_rows: int = 1
    context_rows: int = 1
    on_grid: bool = False  # the row to be quantised lies so that every backend makes the same eight bits of it
    rounded: DType = "i8"  # what `quantize_rows` makes

    @property
    def precision(self) -> Precision:
        """What its matmuls compute in."""
        if self.op == "quantize_rows" or "x_scale" in self.inputs:
            return "int8" if self.rounded == "i8" else "fp8"
        formats = {tensor.dtype for tensor in self.inputs.values()}
        return "bf16" if "bf16" in formats else "f16" if "f16" in formats else "f32"

    def tolerance(self) -> float:
        """Of max |error| / max |reference|."""
        if self.output == "f32" and self.on_grid:
            return OPS["linear"].tolerance[self.rounded]
        if self.op == "quantize_rows":  # i8: a step of at most (high - low) / 255, seen from the larger of the two
            return 2 / 255 if self.rounded == "i8" else 32 / 448
        formats = (self.precision, self.output)
        return OPS[self.op].tolerance["bf16" if "bf16" in formats else "f16" if "f16" in formats else "f32"]

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"


def _t(dtype: DType, *shape: int) -> TensorType:
    return TensorType(dtype, shape)


def _matmuls() -> Iterator[OpCase]:
    combinations: tuple[tuple[DType, DType, DType], ...] = (
        ("f32", "f32", "f32"),
        ("f32", "bf16", "f32"),
        ("bf16", "bf16", "bf16"),
        ("bf16", "bf16", "f32"),
        ("f16", "f16", "f16"),
    )
    for formats in combinations:
        label = "/".join(formats)
        for rows, in_dim, out_dim, activation in (
            (1, 8, 5, "none"), (1, 200, 72, "gelu_tanh"), (17, 33, 19, "silu"), (128, 192, 96, "gelu"),
            (40, 64, 1, "none"),
        ):  # fmt: skip
            yield OpCase(
                "linear", f"{rows}x{in_dim}x{out_dim}-{label}", {"x": _t(formats[0], rows, in_dim)},
                {"weight": _t(formats[1], out_dim, in_dim), "bias": _t("f32", out_dim)},
                {"activation": activation}, formats[2],
            )  # fmt: skip
        yield OpCase(
            "linear", f"residual-{label}", {"x": _t(formats[0], 20, 24), "residual": _t("f32", 20, 40)},
            {"weight": _t(formats[1], 40, 24)}, {"activation": "none"}, formats[2],
        )  # fmt: skip
        yield OpCase(
            "grouped_linear", label, {"x": _t(formats[0], 3, 4, 50)},
            {"weight": _t(formats[1], 4, 7, 50), "bias": _t("f32", 28)}, {}, formats[2],
        )  # fmt: skip
        yield from _convolutions(formats, label)


def _convolutions(formats: tuple[DType, DType, DType], label: str) -> Iterator[OpCase]:
    for name, size, kernel, stride, padding, activation in (
        ("3x3", (9, 14, 8, 12), 3, 1, (1, 1, 1, 1), "silu"),
        ("image", (12, 10, 3, 8), 3, 1, (1, 1, 1, 1), "none"),
        ("down", (10, 8, 16, 16), 3, 2, (0, 0, 1, 1), "none"),
        ("patch", (8, 12, 16, 24), 2, 2, (0, 0, 0, 0), "gelu_tanh"),
        ("1x1", (5, 6, 20, 10), 1, 1, (0, 0, 0, 0), "gelu"),
        ("wide-odd", (9, 13, 48, 52), 3, 1, (1, 1, 1, 1), "silu"),
        ("wide-lopsided", (8, 6, 51, 48), 3, 1, (0, 2, 1, 0), "none"),
    ):
        height, width, channels, out = size
        yield OpCase(
            "conv2d", f"{name}-{label}", {"x": _t(formats[0], height, width, channels)},
            {"weight": _t(formats[1], out, kernel, kernel, channels), "bias": _t("f32", out)},
            {"stride": stride, "padding": padding, "activation": activation}, formats[2],
        )  # fmt: skip
    for name, channels, out in (("residual", 8, 9), ("wide-residual", 48, 50)):
        yield OpCase(
            "conv2d", f"{name}-{label}",
            {"x": _t(formats[0], 6, 5, channels), "residual": _t(formats[2], 6, 5, out)},
            {"weight": _t(formats[1], out, 3, 3, channels)},
            {"stride": 1, "padding": (1, 1, 1, 1), "activation": "none"}, formats[2],
        )  # fmt: skip


def _norms() -> Iterator[OpCase]:
    formats: tuple[tuple[DType, DType], ...] = (
        ("f32", "f32"),
        ("f32", "bf16"),
        ("bf16", "bf16"),
        ("f32", "f16"),
    )
    for x, y in formats:
        label = f"{x}/{y}"
        weight = {"weight": _t("f32", 72)}
        yield OpCase("layer_norm", f"plain-{label}", {"x": _t(x, 11, 72)}, {}, {"eps": 1e-6}, y)
        yield OpCase(
            "layer_norm", f"affine-{label}", {"x": _t(x, 1, 72)}, {**weight, "bias": _t("f32", 72)}, {"eps": 1e-5}, y
        )
        for activation in ("none", "silu"):
            attrs: dict[str, Attr] = {"eps": 1e-24, "activation": activation}
            yield OpCase("rms_norm", f"{activation}-{label}", {"x": _t(x, 4, 5, 72)}, weight, attrs, y)
        tables = {"cos": _t("f32", 11, 12), "sin": _t("f32", 11, 12)}
        yield OpCase("rms_norm_rope", label, {"x": _t(x, 11, 72)}, {**weight, **tables}, {"eps": 1e-6, "heads": 3}, y)


def _attention() -> Iterator[OpCase]:
    formats: tuple[DType, ...] = ("f32", "bf16", "f16")
    for dtype in formats:
        for tokens, heads, width in ((24, 3, 24), (128, 6, 32), (33, 2, 128), (40, 1, 384), (1, 4, 20)):
            q = _t(dtype, tokens, heads * width)
            attrs: dict[str, Attr] = {"heads": heads, "scale": width**-0.5}
            label = f"{tokens}x{heads}x{width}-{dtype}"
            yield OpCase("self_attention", label, {"q": q, "k": q, "v": q}, {}, attrs, dtype)
        for rows, length, proprio in ((3, 10, 1), (10, 10, 1), (1, 128, 1), (7, 8, 2), (4, 9, 0)):
            q, text = _t(dtype, 30, 48), _t(dtype, length, 48)
            inputs = {"q": q, "key_text": text, "value_text": text}
            if proprio:
                inputs |= {"key_proprio": _t(dtype, proprio, 48), "value_proprio": _t(dtype, proprio, 48)}
            yield OpCase(
                "cross_attention", f"{rows}of{length}+{proprio}-{dtype}", inputs, {}, {"heads": 3, "scale": 0.25},
                dtype, rows, length,
            )  # fmt: skip
        yield from _folded_cross_attention(dtype)
    for dtype in formats:
        for tokens, heads, queries, slots in ((24, 4, 4, 1), (130, 6, 16, 3)):
            constants = {"scores": _t("f32", heads * queries, 72), "merge": _t("f32", slots, queries)}
            attrs = {"heads": heads, "queries": queries, "eps": 1e-5}
            label = f"{tokens}x{heads}x{queries}x{slots}-{dtype}"
            yield OpCase("learned_query_pool", label, {"x": _t("f32", tokens, 72)}, constants, attrs, dtype)


def _folded_cross_attention(dtype: DType) -> Iterator[OpCase]:
    """Ragged counts, one key, none but text keys; N narrower and wider than D; with and without bias and residual."""
    for rows, length, proprio, width in ((3, 10, 1, 48), (10, 10, 1, 20), (1, 1, 0, 48), (7, 8, 2, 70), (4, 9, 0, 5)):
        q, text = _t(dtype, 30, 48), _t(dtype, length, 48)
        inputs = {"q": q, "key_text": text, "output_text": _t(dtype, length, 3 * width)}
        if proprio:
            inputs |= {"key_proprio": _t(dtype, proprio, 48), "output_proprio": _t(dtype, proprio, 3 * width)}
        for output in ("f32", dtype)[: 1 if dtype == "f32" else 2]:
            residual = {"residual": _t("f32", 30, width)} if output == "f32" else {}
            yield OpCase(
                "cross_attention_folded", f"{rows}of{length}+{proprio}x{width}-{dtype}/{output}", inputs | residual,
                {} if rows == 4 else {"bias": _t("f32", width)}, {"heads": 3, "scale": 0.25}, output, rows, length,
            )  # fmt: skip


def _elementwise() -> Iterator[OpCase]:
    formats: tuple[DType, ...] = ("f32", "bf16", "f16")
    for dtype in formats:
        x, row = _t(dtype, 13, 21), _t(dtype, 1, 21)
        for op in ("add", "subtract"):
            yield OpCase(op, f"same-{dtype}", {"a": x, "b": x}, {}, {}, dtype)
            yield OpCase(op, f"row-{dtype}", {"a": x, "b": row}, {}, {}, dtype)
            yield OpCase(op, f"constant_a-{dtype}", {"b": row}, {"a": _t("f32", 13, 21)}, {}, dtype)
            yield OpCase(op, f"constant_b-{dtype}", {"a": x}, {"b": _t("f32", 1, 21)}, {}, dtype)
        yield OpCase("concat", dtype, {"x.0": x, "x.1": _t("f32", 13, 4), "x.2": _t(dtype, 13, 9)}, {}, {}, dtype)
        yield OpCase("mean_pool", dtype, {"x": x}, {}, {}, dtype)
        vectors = {"scale": _t("f32", 21), "shift": _t("f32", 21)}
        for low, high in ((-0.5, 0.75), (None, None), (None, 0.0)):
            attrs: dict[str, Attr] = {"minimum": low, "maximum": high}
            yield OpCase("scale_shift_clamp", f"{low}..{high}-{dtype}", {"x": x}, vectors, attrs, dtype)
        yield OpCase("nchw_to_nhwc", dtype, {"x": _t("f32", 5, 4, 6)}, {}, {}, dtype)
        yield OpCase("cast", f"to-{dtype}", {"x": _t("bf16" if dtype == "f32" else "f32", 13, 21)}, {}, {}, dtype)
    yield OpCase("gripper_rule", "last", {"x": _t("f32", 16, 7)}, {}, {"column": 6})
    yield OpCase("reshape", "f32", {"x": _t("f32", 6, 4)}, {}, {})


def _eight_bit(eight: DType) -> Iterator[OpCase]:
    """Ragged sizes; rows of one sign, so that the zero points -128 and 127 occur (see `_grid_rows`)."""

    def scales(rows: int) -> dict[str, TensorType]:
        return {"x_scale": _t("f32", rows), **({"x_zero": _t("i32", rows)} if eight == "i8" else {})}

    outputs: tuple[DType, ...] = ("f32", "bf16")
    for output in outputs:
        for rows, in_dim, out_dim, activation in (
            (1, 8, 5, "none"), (1, 203, 72, "gelu_tanh"), (17, 33, 19, "silu"), (128, 192, 96, "gelu"),
            (40, 64, 1, "none"), (9, 1, 3, "none"), (31, 2, 33, "none"),
        ):  # fmt: skip
            x = {"x": _t(eight, rows, in_dim), **scales(rows)}
            constants = {"weight": _t(eight, out_dim, in_dim), "weight_scale": _t("f32", out_dim)}
            label = f"{rows}x{in_dim}x{out_dim}-{eight}/{output}"
            yield OpCase(
                "linear", label, x, {**constants, "bias": _t("f32", out_dim)}, {"activation": activation}, output,
                on_grid=True, rounded=eight,
            )  # fmt: skip
            if activation == "none":
                residual = {"residual": _t("f32", rows, out_dim)}
                yield OpCase(
                    "linear", f"residual-{label}", {**x, **residual}, constants, {"activation": "none"}, output,
                    on_grid=True, rounded=eight,
                )  # fmt: skip
        for rows, groups, in_dim, out_dim in ((1, 12, 128, 40), (1, 1, 8, 5), (17, 3, 33, 19), (6, 8, 20, 70)):
            yield OpCase(
                "grouped_linear", f"{rows}x{groups}x{in_dim}x{out_dim}-{eight}/{output}",
                {"x": _t(eight, rows, groups, in_dim), **scales(rows * groups)},
                {"weight": _t(eight, groups, out_dim, in_dim), "weight_scale": _t("f32", groups * out_dim),
                 **({"bias": _t("f32", groups * out_dim)} if rows > 1 else {})},
                {}, output, on_grid=True, rounded=eight,
            )  # fmt: skip
    for dtype in (*outputs, "f16"):
        for rows, columns in ((1, 1), (1, 2), (13, 21), (3, 200), (65, 64)):
            x = {"x": _t(dtype, rows, columns)}
            label = f"{rows}x{columns}-{dtype}" + ("" if eight == "i8" else f"-{eight}")
            yield OpCase("quantize_rows", label, x, rounded=eight)
            yield OpCase("quantize_rows", f"grid-{label}", x, on_grid=True, rounded=eight)
    yield OpCase(
        "quantize_rows", "rank3" if eight == "i8" else f"rank3-{eight}", {"x": _t("f32", 3, 5, 24)}, rounded=eight
    )


#: The table. Ops that only whole programs can run (`preprocess_images`, `text_key_bias`) have tests of their own.
OP_CASES: tuple[OpCase, ...] = (*_matmuls(), *_norms(), *_attention(), *_elementwise())
INT8_CASES: tuple[OpCase, ...] = tuple(_eight_bit("i8"))
FP8_CASES: tuple[OpCase, ...] = tuple(_eight_bit("f8"))

#: Ops that have no GPU kernel, or no ONNX form, and so no cases there (docs/guides/add-an-op.md, steps 3 and 4).
WITHOUT_GPU: frozenset[str] = frozenset()
WITHOUT_ONNX: frozenset[str] = frozenset()
