# SPDX-License-Identifier: Apache-2.0
"""The action expert: tokens [S, D] at the adapter layers -> normalised actions [H, A]. Savings 8 and 9.

Everything after pooling is one row (or H rows), so its time is that of reading its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightwam.config import FeatureSource, LightWAMConfig
from lightwam.engine.graph import Constant, Value
from lightwam.export.fold import Affine, FoldedPooler, absorb_scale_shift, fold_pooler, step_positions
from lightwam.export.layers import Emitter, Linear, constant, load_linear, load_norm, load_vector
from lightwam.export.weights import EXPERT, Weights

_EPS = 1e-5  # of every layer norm of the expert


@dataclass(frozen=True)
class ExpertBuilder:
    """Emits the expert's ops; published names `state_fusion_action_expert.*`."""

    emitter: Emitter
    weights: Weights
    config: LightWAMConfig

    def emit(self, sources: Mapping[int, Mapping[FeatureSource, Value]]) -> Value:
        """From the tokens of every source (by block number) to the chunk, still normalised."""
        expert = self.config.action_expert
        layers = self.config.video_dit.adapters.layers
        chosen = expert.sources_per_layer(len(layers))
        compressed = [self._compress(i, sources[layer], chosen[i]) for i, layer in enumerate(layers)]
        fused = self._concat("expert.fused", compressed)
        x = self.emitter.layer_norm("expert.fused_norm", fused, _EPS)
        projection = self._behind_norm("fused_proj", "fused_norm", fused.type.matrix[1], expert.trunk_dim)
        state = self.emitter.linear(projection, x, dtype="f32")
        for block in range(expert.num_trunk_blocks):
            state = self._mlp(f"trunk.{block}", state, expert.trunk_dim, residual=True)
        return self._decode(state)

    def _decode(self, state: Value) -> Value:
        """One row a step: fused state plus the step's constant; the last, tiny linear computes in float32."""
        width, actions = self.config.action_expert.trunk_dim, self.config.action_dim
        rows = self.emitter.emit("add", "expert.steps", {"b": state}, {"a": self._step_constant()})
        first = self._behind_norm("output.0", "output_norm", width, width)
        last = load_linear(self.weights, f"{EXPERT}output.2", "expert.output.2", width, actions)
        normed = self.emitter.layer_norm("expert.output_norm", rows, _EPS)
        hidden = self.emitter.linear(first, normed, activation="gelu_tanh", dtype="f32")
        return self.emitter.linear(last, hidden, "expert.actions", dtype="f32")

    def _step_constant(self) -> Constant:
        expert, horizon = self.config.action_expert, self.config.horizon
        dim, width = expert.step_pos_dim, expert.trunk_dim

        def make() -> Tensor:
            prefix = f"{EXPERT}step_pos_proj"
            first = load_linear(self.weights, f"{prefix}.1", "", dim, width).make()
            second = load_linear(self.weights, f"{prefix}.3", "", width, width).make()
            return step_positions(horizon, load_norm(self.weights, f"{prefix}.0", dim), first, second, _EPS)

        return constant("expert.step_positions", "f32", (horizon, width), make)

    def _compress(self, index: int, tokens: Mapping[FeatureSource, Value], chosen: tuple[FeatureSource, ...]) -> Value:
        pooled = [self._pool(index, source, tokens[source]) for source in chosen]
        joined = self._concat(f"expert.pooled.{index}", pooled)
        return self._mlp(f"layer_compressors.{index}", joined, self.config.action_expert.per_layer_dim, residual=False)

    def _concat(self, name: str, parts: list[Value]) -> Value:
        if len(parts) == 1:
            return parts[0]
        return self.emitter.emit("concat", name, {f"x.{i}": part for i, part in enumerate(parts)})

    def _mlp(self, name: str, x: Value, out_dim: int, residual: bool) -> Value:
        """Norm, linear, GELU(tanh), linear, maybe plus x."""
        first = self._behind_norm(f"{name}.fc1", f"{name}.norm", x.type.matrix[1], out_dim)
        second = load_linear(self.weights, f"{EXPERT}{name}.fc2", f"expert.{name}.fc2", out_dim, out_dim)
        normed = self.emitter.layer_norm(f"expert.{name}.norm", x, _EPS)
        hidden = self.emitter.linear(first, normed, activation="gelu_tanh")
        return self.emitter.linear(second, hidden, residual=x if residual else None, dtype="f32")

    def _behind_norm(self, source: str, norm: str, in_dim: int, out_dim: int) -> Linear:
        """A linear with the affine of the norm before it folded in."""
        plain = load_linear(self.weights, EXPERT + source, f"expert.{source}", in_dim, out_dim)

        def fold(linear: Affine) -> Affine:
            return absorb_scale_shift(linear, *load_norm(self.weights, EXPERT + norm, in_dim), in_place=True)

        return plain.folded(fold)

    def _pool(self, index: int, source: FeatureSource, tokens: Value) -> Value:
        if self.config.action_expert.pooling == "mean":
            return self.emitter.emit("mean_pool", f"expert.pool.{index}.{source}", {"x": tokens})
        return self._learned_pool(f"layer_poolers.{index}.{source}", tokens)

    def _learned_pool(self, source: str, tokens: Value) -> Value:
        """Scores, query averages, then value, output and norm on one row a slot."""
        emitter, expert, name = self.emitter, self.config.action_expert, f"expert.{source}"
        width = tokens.type.matrix[1]
        folded = self._pool_constants(source, width)
        averages = emitter.emit(
            "learned_query_pool", f"{name}.pool", {"x": tokens},
            {"scores": folded["scores"], "merge": folded["merge"]}, emitter.formats.compute,
            heads=expert.num_heads, queries=expert.num_queries, eps=_EPS,
        )  # fmt: skip
        values = emitter.emit(
            "grouped_linear", f"{name}.value", {"x": averages},
            {"weight": folded["value"], "bias": folded["value_bias"]}, emitter.formats.compute,
        )  # fmt: skip
        out = load_linear(self.weights, f"{EXPERT}{source}.attn.out_proj", f"{name}.out", width, width)
        pooled = emitter.linear(out, values, dtype="f32")
        if expert.merge_dim is not None:
            pooled = self._merge_slots(source, pooled, folded["merge"].type.shape[0] * width, expert.merge_dim)
        norm, columns = f"{source}.output_norm", pooled.type.matrix[1]  # not folded: the next norm is over all sources
        affine = {
            part: load_vector(self.weights, f"{EXPERT}{norm}.{part}", f"expert.{norm}.{part}", columns)
            for part in ("weight", "bias")
        }
        return emitter.emit("layer_norm", f"expert.{norm}", {"x": pooled}, affine, eps=_EPS)

    def _pool_constants(self, source: str, width: int) -> dict[str, Constant]:
        config, weights, prefix, name = self.config.action_expert, self.weights, EXPERT + source, f"expert.{source}"
        heads, queries = config.num_heads, config.num_queries
        slots = 1 if config.merge_dim is None else config.merge_slots

        def make() -> FoldedPooler:
            packed = Affine(
                weights.get(f"{prefix}.attn.in_proj_weight", (3 * width, width)),
                weights.get(f"{prefix}.attn.in_proj_bias", (3 * width,)),
            )
            if config.merge_dim is None:
                logits = weights.get(f"{prefix}.query_merge_logits", (queries,))[None]
            else:
                logits = weights.get(f"{prefix}.query_slot_merge_logits", (slots, queries))
            tokens = weights.get(f"{prefix}.query_tokens", (queries, width))
            return fold_pooler(load_norm(weights, f"{prefix}.token_norm", width), tokens, packed, logits, heads)

        value_shape, stored = (heads, width // heads, width), self.emitter.formats.weight
        return {
            "scores": constant(f"{name}.scores", "f32", (heads * queries, width), lambda: make().scores),
            "merge": constant(f"{name}.merge", "f32", (slots, queries), lambda: make().merge),
            "value": constant(f"{name}.value.weight", stored, value_shape, lambda: make().value),
            "value_bias": constant(f"{name}.value.bias", "f32", (width,), lambda: make().value_bias),
        }

    def _merge_slots(self, source: str, pooled: Value, width: int, merge_dim: int) -> Value:
        prefix, name = f"{EXPERT}{source}.query_merge_projector", f"expert.{source}"
        row = self.emitter.reshape(f"{name}.slots", pooled, (1, width))
        normed = self.emitter.layer_norm(f"{name}.slots_norm", row, _EPS)
        plain = load_linear(self.weights, f"{prefix}.1", f"{name}.merge_projector", width, merge_dim)
        return self.emitter.linear(
            plain.folded(lambda linear: absorb_scale_shift(linear, *load_norm(self.weights, f"{prefix}.0", width))),
            normed,
            dtype="f32",
        )
