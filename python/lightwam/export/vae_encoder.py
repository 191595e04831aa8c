# SPDX-License-Identifier: Apache-2.0
"""The VAE encoder of one frame: canvas [H, W, 3] in -1..1 -> normalised latents [h, w, Z]. Savings 2 and 11."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightwam.config import VAEConfig
from lightwam.engine.graph import Constant, Value
from lightwam.export.fold import Affine, first_frame_kernel, fold_latent_head
from lightwam.export.layers import Emitter, Linear, constant, load_vector
from lightwam.export.weights import VAE, Weights

_NORM_EPS = 1e-24  # the model divides by max(norm, 1e-12)
_SAME = (1, 1, 1, 1)


class VAEEncoderBuilder:
    """Emits the encoder layer by layer; published names `vae.model.encoder.*`."""

    def __init__(self, emitter: Emitter, weights: Weights, config: VAEConfig) -> None:
        self._emit = emitter
        self._weights = weights
        self._config = config

    def emit(self, canvas: Value) -> Value:
        """Append the whole encoder; the result is in the compute format."""
        config = self._config
        x = self._conv("conv1", "encoder.conv1", canvas, config.base_dim, kernel=3)
        index = 0
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.num_res_blocks):
                x = self._residual_block(
                    f"down.{index}", f"encoder.downsamples.{index}", x, config.base_dim * multiplier
                )
                index += 1
            if level < len(config.multipliers) - 1:
                x = self._downsample(f"down.{index}", f"encoder.downsamples.{index}.resample.1", x)
                index += 1
        width = x.type.shape[2]
        x = self._residual_block("middle.0", "encoder.middle.0", x, width)
        x = self._attention("middle.1", "encoder.middle.1", x)
        x = self._residual_block("middle.2", "encoder.middle.2", x, width)
        return self._head(x)

    def _conv(
        self, name: str, source: str, x: Value, out_dim: int, kernel: int, residual: Value | None = None
    ) -> Value:
        """A causal 3-D convolution as its 2-D last tap, at unchanged size."""
        in_dim = x.type.shape[2]

        def make() -> Tensor:
            depth = 3 if kernel == 3 else 1
            return first_frame_kernel(
                self._weights.get(f"{VAE}{source}.weight", (out_dim, in_dim, depth, kernel, kernel))
            )

        weight = constant(f"vae.{name}.weight", self._emit.formats.weight, (out_dim, kernel, kernel, in_dim), make)
        padding = _SAME if kernel == 3 else (0, 0, 0, 0)
        bias = self._vector(f"{name}.bias", f"{source}.bias", out_dim)
        return self._emit.conv2d(f"vae.{name}", x, weight, bias, 1, padding, residual)

    def _vector(self, name: str, source: str, dim: int) -> Constant:
        return load_vector(self._weights, VAE + source, f"vae.{name}", dim)

    def _norm(self, name: str, source: str, x: Value, activation: str, gamma_dims: int = 3) -> Value:
        dim = x.type.matrix[1]
        shape = (dim, *(1,) * gamma_dims)
        gamma = constant(
            f"vae.{name}.weight", "f32", (dim,), lambda: self._weights.get(f"{VAE}{source}.gamma", shape).flatten()
        )
        return self._emit.emit(
            "rms_norm", f"vae.{name}", {"x": x}, {"weight": gamma}, self._emit.formats.compute,
            eps=_NORM_EPS, activation=activation,
        )  # fmt: skip

    def _residual_block(self, name: str, source: str, x: Value, out_dim: int) -> Value:
        shortcut = x
        if x.type.shape[2] != out_dim:
            shortcut = self._conv(f"{name}.shortcut", f"{source}.shortcut", x, out_dim, kernel=1)
        y = self._norm(f"{name}.norm1", f"{source}.residual.0", x, "silu")
        y = self._conv(f"{name}.conv1", f"{source}.residual.2", y, out_dim, kernel=3)
        y = self._norm(f"{name}.norm2", f"{source}.residual.3", y, "silu")
        return self._conv(f"{name}.conv2", f"{source}.residual.6", y, out_dim, kernel=3, residual=shortcut)

    def _downsample(self, name: str, source: str, x: Value) -> Value:
        """Stride 2, padded below and to the right; the temporal convolution skips a clip's first frame."""
        dim = x.type.shape[2]
        weight = constant(
            f"vae.{name}.weight", self._emit.formats.weight, (dim, 3, 3, dim),
            lambda: self._weights.get(f"{VAE}{source}.weight", (dim, dim, 3, 3)).permute(0, 2, 3, 1),
        )  # fmt: skip
        bias = self._vector(f"{name}.bias", f"{source}.bias", dim)
        return self._emit.conv2d(f"vae.{name}", x, weight, bias, 2, (0, 0, 1, 1))

    def _attention(self, name: str, source: str, x: Value) -> Value:
        height, width, dim = x.type.shape
        stream = self._emit.reshape(f"vae.{name}.tokens", x, (height * width, dim))
        normed = self._norm(f"{name}.norm", f"{source}.norm", stream, "none", gamma_dims=2)
        parts = [self._pointwise(f"{name}.{part}", f"{source}.to_qkv", dim, 3, i) for i, part in enumerate("qkv")]
        compute = self._emit.formats.compute
        q, k, v = (self._emit.linear(layer, normed) for layer in parts)
        attended = self._emit.emit(
            "self_attention", f"vae.{name}.attention", {"q": q, "k": k, "v": v}, {}, compute,
            heads=1, scale=1.0 / math.sqrt(dim),
        )  # fmt: skip
        proj = self._pointwise(f"{name}.proj", f"{source}.proj", dim, 1, 0)
        y = self._emit.linear(proj, attended, residual=stream, dtype=stream.type.dtype)
        return self._emit.reshape(f"vae.{name}.map", y, (height, width, dim))

    def _pointwise(self, name: str, source: str, dim: int, parts: int, part: int) -> Linear:
        """One of the `parts` packed outputs of a 1x1 convolution, as a linear."""

        def make() -> Affine:
            weight = self._weights.get(f"{VAE}{source}.weight", (parts * dim, dim, 1, 1)).flatten(1)
            bias = self._weights.get(f"{VAE}{source}.bias", (parts * dim,))
            rows = slice(part * dim, (part + 1) * dim)
            return Affine(weight[rows], bias[rows])

        return Linear(f"vae.{name}", dim, dim, make)

    def _head(self, x: Value) -> Value:
        z_dim, dim = self._config.z_dim, x.type.shape[2]

        def make() -> tuple[Tensor, Tensor]:
            get = self._weights.get
            kernel = first_frame_kernel(get(f"{VAE}encoder.head.2.weight", (2 * z_dim, dim, 3, 3, 3)))
            last = get(f"{VAE}conv1.weight", (2 * z_dim, 2 * z_dim, 1, 1, 1)).flatten(1)
            mean, std = (
                torch.tensor(x, dtype=torch.float64) for x in (self._config.latent_mean, self._config.latent_std)
            )
            head = kernel, get(f"{VAE}encoder.head.2.bias", (2 * z_dim,))
            return fold_latent_head(head, Affine(last, get(f"{VAE}conv1.bias", (2 * z_dim,))), mean, std)

        y = self._norm("head.norm", "encoder.head.0", x, "silu")
        weight = constant("vae.head.weight", self._emit.formats.weight, (z_dim, 3, 3, dim), lambda: make()[0])
        bias = constant("vae.head.bias", "f32", (z_dim,), lambda: make()[1])
        return self._emit.conv2d("vae.head", y, weight, bias, 1, _SAME)
