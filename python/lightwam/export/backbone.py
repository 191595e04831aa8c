# SPDX-License-Identifier: Apache-2.0
"""The backbone's action pass: latents [h, w, Z] -> tokens [S, D] at the adapter layers. Savings 1, 3-7, 10, 13.

The residual stream is float32, or float16 by `stream_dtype`; norms hand it to the matmuls in the compute format.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from torch import Tensor

from lightwam.config import FeatureSource, LightWAMConfig
from lightwam.engine.graph import Constant, Storage, TensorType, Value
from lightwam.export.fold import (
    Affine,
    absorb_gate,
    absorb_scale_shift,
    fold_proprio,
    merge_lora,
    pooled_patch_kernel,
    rope_tables,
    time_modulation,
)
from lightwam.export.layers import Emitter, Linear, constant, load_linear, load_norm, load_vector
from lightwam.export.weights import DIT, PROPRIO, Weights

# (shift, scale, gate) of the two modulated halves of a block: rows of its six time vectors.
_ATTENTION_ROWS, _FFN_ROWS = (0, 1, 2), (3, 4, 5)
_LORA_NAMES = {"ffn.0": "ffn_lora_in", "ffn.2": "ffn_lora_out"}


@dataclass(frozen=True)
class InstructionCache:
    """What `set_instruction` keeps for every block: keys of the text rows, what they carry (values [L, heads*d], or
    with saving 13 outputs [L, heads*D]), and their logit biases.
    """

    keys: tuple[Value, ...]
    carried: tuple[Value, ...]
    key_bias: Value
    key_count: Value


class BackboneFold:
    """The backbone's layers with LoRA, time modulation, gates and norm affines folded in."""

    def __init__(self, weights: Weights, config: LightWAMConfig) -> None:
        self.config = config
        self._dit = config.video_dit
        self._weights = weights

    @functools.cached_property
    def _time_mod(self) -> Tensor:
        """The action pass's six time vectors [6, D]."""
        hidden, freq = self._dit.hidden_dim, self._dit.freq_dim
        embedding = (self._plain("time_embedding.0", freq, hidden), self._plain("time_embedding.2", hidden, hidden))
        first, second = (linear.make() for linear in embedding)
        return time_modulation((first, second), self._plain("time_projection.1", hidden, 6 * hidden).make(), freq)

    def _plain(self, module: str, in_dim: int, out_dim: int) -> Linear:
        """A linear as it is stored."""
        return load_linear(self._weights, DIT + module, module, in_dim, out_dim)

    def _modulation(self, layer: int) -> Tensor:
        """shift, scale, gate of the attention, then of the FFN: [6, D]."""
        own = self._weights.get(f"{DIT}blocks.{layer}.modulation", (1, 6, self._dit.hidden_dim))
        return own[0] + self._time_mod

    def _linear(self, layer: int, module: str, in_dim: int, out_dim: int) -> Linear:
        """A block's linear, its LoRA merged where it has one."""
        plain = self._plain(f"blocks.{layer}.{module}", in_dim, out_dim)
        lora = self._dit.lora
        if lora is None or layer not in lora.layers or module not in lora.modules:
            return plain
        attention, _, part = module.partition(".")
        name = _LORA_NAMES.get(module, f"{attention}.lora_{part}")
        prefix = f"{DIT}blocks.{layer}.{name}"

        def merge(base: Affine) -> Affine:
            down = self._weights.get(f"{prefix}.down_proj.weight", (lora.rank, in_dim))
            up = self._weights.get(f"{prefix}.up_proj.weight", (out_dim, lora.rank))
            return Affine(merge_lora(base.weight, down, up, lora.alpha / lora.rank), base.bias)

        return plain.folded(merge)

    def modulated(self, layer: int, module: str, out_dim: int) -> Linear:
        """A linear that reads LN(x) (1 + scale) + shift: self-attention's q, k, v, and the first of the FFN."""
        shift, scale, _ = _FFN_ROWS if module == "ffn.0" else _ATTENTION_ROWS

        def fold(linear: Affine) -> Affine:
            rows = self._modulation(layer)
            return absorb_scale_shift(linear, 1.0 + rows[scale], rows[shift])

        return self._linear(layer, module, self._dit.hidden_dim, out_dim).folded(fold)

    def gated(self, layer: int, module: str, in_dim: int) -> Linear:
        """A linear whose output a gate scales: self-attention's o, and the second of the FFN."""
        gate = _FFN_ROWS[2] if module == "ffn.2" else _ATTENTION_ROWS[2]
        linear = self._linear(layer, module, in_dim, self._dit.hidden_dim)
        return linear.folded(lambda plain: absorb_gate(plain, self._modulation(layer)[gate]))

    def cross_query(self, layer: int) -> Linear:
        """Reads LN(x): the affine of norm3 is folded in."""
        dit = self._dit

        def fold(linear: Affine) -> Affine:
            return absorb_scale_shift(linear, *load_norm(self._weights, f"{DIT}blocks.{layer}.norm3", dit.hidden_dim))

        return self._linear(layer, "cross_attn.q", dit.hidden_dim, dit.attention_dim).folded(fold)

    def cross(self, layer: int, part: str) -> Linear:
        """Cross-attention's k, v (from a context row) or o."""
        hidden, inner = self._dit.hidden_dim, self._dit.attention_dim
        in_dim, out_dim = (inner, hidden) if part == "o" else (hidden, inner)
        return self._linear(layer, f"cross_attn.{part}", in_dim, out_dim)

    def head_norm(self, layer: int, attention: str, part: str) -> Constant:
        """Weight of the RMS norm of queries or keys."""
        name = f"blocks.{layer}.{attention}.norm_{part}.weight"
        return load_vector(self._weights, DIT + name, name, self._dit.attention_dim)

    def text_embedding(self) -> tuple[Linear, Linear]:
        hidden = self._dit.hidden_dim
        first = self._plain("text_embedding.0", self._dit.text_dim, hidden)
        return first, self._plain("text_embedding.2", hidden, hidden)

    def proprio_embedding(self) -> Linear:
        """Normalised state -> the first text-embedding linear of its context row."""
        encoder = load_linear(
            self._weights, PROPRIO.rstrip("."), "proprio_embedding", self.config.state_dim, self._dit.text_dim
        )
        first, _ = self.text_embedding()
        return encoder.folded(lambda plain: fold_proprio(plain, first.make()), out_dim=self._dit.hidden_dim)

    def adapter(self, layer: int) -> tuple[Linear, Linear]:
        """Down (reads LN(x), affine folded) and up (scale folded)."""
        hidden, dim, scale = self._dit.hidden_dim, self._dit.adapters.dim, self._dit.adapters.scale
        prefix = f"{DIT}wam_adapters.{layer}"
        down = load_linear(self._weights, f"{prefix}.down_proj", f"adapters.{layer}.down", hidden, dim)
        up = load_linear(self._weights, f"{prefix}.up_proj", f"adapters.{layer}.up", dim, hidden)
        return (
            down.folded(lambda plain: absorb_scale_shift(plain, *load_norm(self._weights, f"{prefix}.norm", hidden))),
            up.folded(lambda plain: Affine(scale * plain.weight, scale * plain.bias)),
        )

    def patch_kernel(self, factor: int, dtype: str) -> tuple[Constant, Constant]:
        """Kernel [D, h, w, C] and bias of the patch embedding, behind an average pool of `factor`."""
        dit = self._dit
        _, patch_h, patch_w = dit.patch_size
        shape = (dit.hidden_dim, dit.in_dim, 1, patch_h, patch_w)

        def make() -> Tensor:
            return pooled_patch_kernel(self._weights.get(f"{DIT}patch_embedding.weight", shape)[:, :, 0], factor)

        kernel_shape = (dit.hidden_dim, patch_h * factor, patch_w * factor, dit.in_dim)
        weight = constant("patch_embedding.weight", dtype, kernel_shape, make)  # type: ignore[arg-type]
        name = "patch_embedding.bias"
        return weight, load_vector(self._weights, DIT + name, name, dit.hidden_dim)


class BackboneBuilder:
    """Emits the backbone's ops of both programs. `fold_output`: with saving 13."""

    def __init__(self, emitter: Emitter, fold: BackboneFold, fold_output: bool) -> None:
        self._emit = emitter
        self._fold = fold
        self._dit = fold.config.video_dit
        self._fold_output = fold_output

    def emit_instruction(self, context: Value, text_rows: Value, blocks: int) -> InstructionCache:
        """Embed the text rows [L, E] and keep keys and values, or outputs, of every block."""
        rows = context.type.shape[0]
        first, second = self._fold.text_embedding()
        hidden = self._emit.linear(first, self._emit.to_compute("context_in", context), activation="gelu_tanh")
        embedded = self._emit.linear(second, hidden)
        keys = tuple(self._key(layer, embedded, "text", cached=True) for layer in range(blocks))
        carried = tuple(self._carried(layer, embedded, "text", cached=True) for layer in range(blocks))
        bias = self._emit.emit_many(
            "text_key_bias", "text_key_bias", {"text_rows": text_rows},
            {"key_bias": TensorType("f32", (rows,)), "key_count": TensorType("i32", (1,))}, "instruction",
        )  # fmt: skip
        return InstructionCache(keys, carried, bias["key_bias"], bias["key_count"])

    def bind_instruction(self, cache: InstructionCache) -> InstructionCache:
        """The cache as values that this program reads."""

        def bind(value: Value) -> Value:
            return self._emit.bind(value.name, value.type.dtype, value.type.shape, "instruction")

        keys, carried = (tuple(bind(value) for value in group) for group in (cache.keys, cache.carried))
        return InstructionCache(keys, carried, bind(cache.key_bias), bind(cache.key_count))

    def _key(self, layer: int, row: Value, kind: str, cached: bool = False) -> Value:
        name = f"blocks.{layer}.cross_attn.key_{kind}"
        raw = self._emit.linear(self._fold.cross(layer, "k"), row, f"{name}.raw")
        return self._emit.emit(
            "rms_norm", name, {"x": raw}, {"weight": self._fold.head_norm(layer, "cross_attn", "k")},
            self._emit.formats.compute, None, "instruction" if cached else "arena",
            eps=self._dit.eps, activation="none",
        )  # fmt: skip

    def _carried(self, layer: int, row: Value, kind: str, cached: bool = False) -> Value:
        """What a key gives to the tokens that attend to it: its value, or that through the output projection."""
        name, compute = f"blocks.{layer}.cross_attn", self._emit.formats.compute
        storage: Storage = "instruction" if cached else "arena"
        value = self._emit.linear(
            self._fold.cross(layer, "v"), row, f"{name}.value_{kind}",
            storage="arena" if self._fold_output else storage,
        )  # fmt: skip
        if not self._fold_output:
            return value
        output = self._fold.cross(layer, "o")
        return self._emit.by_head(output, value, self._dit.num_heads, f"{name}.output_{kind}", compute, storage)

    def emit_proprio(self, state: Value) -> Value:
        """Normalised state [1, P] -> its embedded context row [1, D]. The first, tiny linear computes in float32."""
        _, second = self._fold.text_embedding()
        hidden = self._emit.linear(self._fold.proprio_embedding(), state, activation="gelu_tanh")
        return self._emit.linear(second, hidden, "proprio_row")

    def emit_tokens(self, latents: Value) -> Value:
        """Patchify: [h, w, Z] -> tokens [S, D], ordered by row, then column."""
        video = self._fold.config.video
        factor = video.spatial_downsample if video.downsample_action_pass else 1
        weight, bias = self._fold.patch_kernel(factor, self._emit.formats.weight)
        patches = self._emit.conv2d(
            "patch_embedding", latents, weight, bias, weight.type.shape[1], dtype=self._emit.formats.stream
        )
        rows, columns, width = patches.type.shape
        return self._emit.reshape("tokens", patches, (rows * columns, width))

    def emit_blocks(
        self, tokens: Value, grid: tuple[int, int], proprio: Value, cache: InstructionCache
    ) -> dict[int, dict[FeatureSource, Value]]:
        """Run the blocks; returns the tokens [S, D] of every source at every adapter layer, by block number."""
        rope = self._rope(grid)
        sources: dict[int, dict[FeatureSource, Value]] = {}
        for layer in range(len(cache.keys)):
            tokens = self._self_attention(layer, tokens, rope)
            tokens = self._cross_attention(layer, tokens, proprio, cache)
            tokens = self._feed_forward(layer, tokens)
            if layer in self._dit.adapters.layers:
                sources[layer] = self._adapter(layer, tokens)
                tokens = sources[layer]["adapted"]
        return sources

    def _rope(self, grid: tuple[int, int]) -> tuple[Constant, Constant]:
        shape = (grid[0] * grid[1], self._dit.head_dim // 2)
        arguments = (grid, self._dit.head_dim, self._dit.rope_theta)
        return (
            constant("rope.cos", "f32", shape, lambda: rope_tables(*arguments)[0]),
            constant("rope.sin", "f32", shape, lambda: rope_tables(*arguments)[1]),
        )

    def _self_attention(self, layer: int, tokens: Value, rope: tuple[Constant, Constant]) -> Value:
        name, compute, dit = f"blocks.{layer}.self_attn", self._emit.formats.compute, self._dit
        normed = self._emit.layer_norm(f"blocks.{layer}.norm1", tokens, dit.eps)
        parts: dict[str, Value] = {}
        for part in "qkv":
            linear = self._fold.modulated(layer, f"self_attn.{part}", dit.attention_dim)
            parts[part] = self._emit.linear(linear, normed)
        for part in "qk":
            tables = {"weight": self._fold.head_norm(layer, "self_attn", part), "cos": rope[0], "sin": rope[1]}
            parts[part] = self._emit.emit(
                "rms_norm_rope", f"{name}.{part}_rope", {"x": parts[part]}, tables, compute,
                eps=dit.eps, heads=dit.num_heads,
            )  # fmt: skip
        attended = self._emit.emit(
            "self_attention", f"{name}.attention", parts, {}, compute,
            heads=dit.num_heads, scale=1.0 / math.sqrt(dit.head_dim),
        )  # fmt: skip
        return self._added(self._fold.gated(layer, "self_attn.o", dit.attention_dim), attended, tokens)

    def _cross_attention(self, layer: int, tokens: Value, proprio: Value, cache: InstructionCache) -> Value:
        name, compute, dit = f"blocks.{layer}.cross_attn", self._emit.formats.compute, self._dit
        normed = self._emit.layer_norm(f"blocks.{layer}.norm3", tokens, dit.eps)
        raw = self._emit.linear(self._fold.cross_query(layer), normed)
        query = self._emit.emit(
            "rms_norm", f"{name}.q_norm", {"x": raw}, {"weight": self._fold.head_norm(layer, "cross_attn", "q")},
            compute, eps=dit.eps, activation="none",
        )  # fmt: skip
        carried = "output" if self._fold_output else "value"
        inputs = {
            "q": query,
            "key_text": cache.keys[layer],
            f"{carried}_text": cache.carried[layer],
            "key_bias": cache.key_bias,
            "key_count": cache.key_count,
            "key_proprio": self._key(layer, proprio, "proprio"),
            f"{carried}_proprio": self._carried(layer, proprio, "proprio"),
        }
        output, scale = self._fold.cross(layer, "o"), 1.0 / math.sqrt(dit.head_dim)
        if self._fold_output:
            return self._emit.emit(
                "cross_attention_folded", f"{name}.o", {**inputs, "residual": tokens}, {"bias": output.bias()},
                self._emit.formats.stream, heads=dit.num_heads, scale=scale,
            )  # fmt: skip
        attended = self._emit.emit(
            "cross_attention", f"{name}.attention", inputs, {}, compute, heads=dit.num_heads, scale=scale
        )
        return self._added(output, attended, tokens)

    def _feed_forward(self, layer: int, tokens: Value) -> Value:
        normed = self._emit.layer_norm(f"blocks.{layer}.norm2", tokens, self._dit.eps)
        first = self._fold.modulated(layer, "ffn.0", self._dit.ffn_dim)
        hidden = self._emit.linear(first, normed, activation="gelu_tanh")
        return self._added(self._fold.gated(layer, "ffn.2", self._dit.ffn_dim), hidden, tokens)

    def _added(self, layer: Linear, x: Value, tokens: Value) -> Value:
        """What `layer` makes of x, added to the residual stream."""
        return self._emit.linear(layer, x, residual=tokens, dtype=self._emit.formats.stream)

    def _adapter(self, layer: int, tokens: Value) -> dict[FeatureSource, Value]:
        """backbone h, delta h' - h, adapted h'. What nothing reads is pruned later."""
        down, up = self._fold.adapter(layer)
        normed = self._emit.layer_norm(f"adapters.{layer}.norm", tokens, self._dit.eps)
        hidden = self._emit.linear(down, normed, activation="gelu_tanh")
        layers = self._dit.adapters.layers
        if "delta" not in self._fold.config.action_expert.sources_per_layer(len(layers))[layers.index(layer)]:
            return {"backbone": tokens, "adapted": self._added(up, hidden, tokens)}
        stream = self._emit.formats.stream
        delta = self._emit.linear(up, hidden, dtype=stream)
        adapted = self._emit.emit("add", f"adapters.{layer}.adapted", {"a": tokens, "b": delta}, dtype=stream)
        return {"backbone": tokens, "delta": delta, "adapted": adapted}
