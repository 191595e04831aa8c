# SPDX-License-Identifier: Apache-2.0
"""Folded layers as lazily made constants, and the ops that use them. Nothing is computed before it is loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.dtypes import Array, DType, Shape
from lightwam.engine.graph import Constant, Stage, Storage, TensorType, Value
from lightwam.errors import ExportError
from lightwam.export.fold import Affine, split_heads
from lightwam.export.weights import Weights


@dataclass(frozen=True)
class Formats:
    """What matmuls read (`compute`), how their weights are stored (`weight`), what the backbone's blocks add to
    (`stream`); the expert's stream, norms and tables stay float32.
    """

    compute: DType
    weight: DType
    stream: DType = "f32"


def constant(name: str, dtype: DType, shape: Shape, make: Callable[[], Tensor]) -> Constant:
    """A constant whose numbers `make` computes when they are read."""

    def load() -> Array:
        if dtype == "f16":
            return _half(name, make())
        if dtype == "bf16":
            return np.asarray(make().to(torch.bfloat16).contiguous().view(torch.int16).numpy()).view(np.uint16)
        if dtype == "f8":
            return np.asarray(make().to(torch.float8_e4m3fn).contiguous().view(torch.uint8).numpy())
        whole = torch.int8 if dtype == "i8" else torch.float32
        return np.asarray(make().to(whole).contiguous().numpy())

    return Constant(name, TensorType(dtype, shape), load)


def _half(name: str, numbers: Tensor) -> Array:
    """Rounded to float16. Raises `ExportError` if one lies beyond its largest, 65,504."""
    rounded = numbers.to(torch.float16)
    if bool(rounded.isinf().any()):
        largest = numbers.flatten()[numbers.abs().argmax()].item()
        raise ExportError(f"constant {name} holds {largest:.6g}, beyond f16's 65504: export with --precision bf16")
    return np.asarray(rounded.contiguous().numpy())


@dataclass(frozen=True)
class Linear:
    """A named affine map [out_dim, in_dim] that is folded on demand. A bias is always there: folding makes one."""

    name: str
    in_dim: int
    out_dim: int
    make: Callable[[], Affine]
    _kept_bias: list[Tensor] = field(default_factory=list, compare=False)

    def weight(self, dtype: DType) -> Constant:
        return constant(f"{self.name}.weight", dtype, (self.out_dim, self.in_dim), self._make_weight)

    def bias(self) -> Constant:
        return constant(f"{self.name}.bias", "f32", (self.out_dim,), self._make_bias)

    def weight_by_head(self, dtype: DType, heads: int) -> Constant:
        """The weight as [heads, out_dim, in_dim / heads], for inputs that arrive head by head."""
        shape = (heads, self.out_dim, self.in_dim // heads)
        return constant(f"{self.name}.weight", dtype, shape, lambda: split_heads(self._make_weight(), heads))

    def _make_weight(self) -> Tensor:
        """Folding makes both; the small bias is kept for its next reader."""
        made = self.make()
        self._kept_bias[:] = [made.bias.clone()]
        return made.weight

    def _make_bias(self) -> Tensor:
        return self._kept_bias.pop() if self._kept_bias else self.make().bias

    def folded(self, fold: Callable[[Affine], Affine], in_dim: int | None = None, out_dim: int | None = None) -> Linear:
        """The same layer with a fold applied."""
        make = self.make
        return Linear(self.name, in_dim or self.in_dim, out_dim or self.out_dim, lambda: fold(make()))


def load_linear(weights: Weights, source: str, name: str, in_dim: int, out_dim: int) -> Linear:
    """The linear stored as `source`.weight and `source`.bias."""

    def make() -> Affine:
        return Affine(weights.get(f"{source}.weight", (out_dim, in_dim)), weights.get(f"{source}.bias", (out_dim,)))

    return Linear(name, in_dim, out_dim, make)


def load_vector(weights: Weights, source: str, name: str, size: int) -> Constant:
    """A vector as it is stored, in float32."""
    return constant(name, "f32", (size,), functools.partial(weights.get, source, (size,)))


def load_norm(weights: Weights, source: str, dim: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of an affine layer norm."""
    return weights.get(f"{source}.weight", (dim,)), weights.get(f"{source}.bias", (dim,))


class Emitter(ProgramBuilder):
    """Appends the ops of folded layers to a program, in the engine's formats."""

    def __init__(self, constants: dict[str, Constant], stage: Stage, formats: Formats) -> None:
        super().__init__(constants, stage)
        self.formats = formats

    def linear(
        self,
        layer: Linear,
        x: Value,
        name: str | None = None,
        activation: str = "none",
        residual: Value | None = None,
        dtype: DType | None = None,
        storage: Storage = "arena",
    ) -> Value:
        """y = act(x W^T + b) + residual, in the compute format unless `dtype` is given.

        An f32 `x` in a bf16 or f16 engine keeps f32 weights (small layers only).
        """
        widened = x.type.dtype == "f32" and self.formats.compute != "f32"
        weight = layer.weight("f32" if widened else self.formats.weight)
        inputs = {"x": x} if residual is None else {"x": x, "residual": residual}
        return self.emit(
            "linear", name or layer.name, inputs, {"weight": weight, "bias": layer.bias()},
            dtype or self.formats.compute, None, storage, activation=activation,
        )  # fmt: skip

    def by_head(self, layer: Linear, x: Value, heads: int, name: str, dtype: DType, storage: Storage) -> Value:
        """x [R, heads*d] -> [R, heads*N]: what each head of `layer` [N, heads*d] adds, without bias (saving 13)."""
        rows, width = x.type.shape
        split = self.reshape(f"{name}.heads", x, (rows, heads, width // heads))
        weight = layer.weight_by_head(self.formats.weight, heads)
        return self.emit("grouped_linear", name, {"x": split}, {"weight": weight}, dtype, None, storage)

    def conv2d(
        self,
        name: str,
        x: Value,
        weight: Constant,
        bias: Constant,
        stride: int = 1,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        residual: Value | None = None,
        dtype: DType | None = None,
    ) -> Value:
        """y = conv(x) + b + residual; `dtype` is the compute format unless given."""
        inputs = {"x": x} if residual is None else {"x": x, "residual": residual}
        return self.emit(
            "conv2d", name, inputs, {"weight": weight, "bias": bias}, dtype or self.formats.compute,
            stride=stride, padding=padding, activation="none",
        )  # fmt: skip

    def layer_norm(self, name: str, x: Value, eps: float, dtype: DType | None = None) -> Value:
        """Norm without affine (folded into what follows), in the compute format unless `dtype` is given."""
        return self.emit("layer_norm", name, {"x": x}, {}, dtype or self.formats.compute, eps=eps)

    def reshape(self, name: str, x: Value, shape: Shape) -> Value:
        return x if x.type.shape == shape else self.emit("reshape", name, {"x": x}, {}, x.type.dtype, shape)

    def to_compute(self, name: str, x: Value) -> Value:
        """`x` in the compute format."""
        same = x.type.dtype == self.formats.compute
        return x if same else self.emit("cast", name, {"x": x}, {}, self.formats.compute)
