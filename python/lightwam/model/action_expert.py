# SPDX-License-Identifier: Apache-2.0
"""The state-fusion action expert: pooled adapter-layer states -> one chunk of actions, in one forward pass.

Shapes: B batch, S tokens, D hidden width, Q queries, M merged slots, H action horizon, A action width, K trunk width.
Source: Light-WAM (arXiv 2606.08242), state-fusion action expert. Parameter names are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import ActionExpertConfig, FeatureSource
from lightwam.errors import ConfigError
from lightwam.model import ops
from lightwam.model.attention import AttentionLayer, attention, attention_weights
from lightwam.model.dit import LayerState, sinusoidal_embedding


@dataclass(frozen=True)
class PoolerAttention:
    """Where a pooler looks.

    per_query: [B, Q, S], mean over heads, each row sums to 1.
    summary: [B, S], the queries averaged with their merge weights (mean over slots where slots are merged).
    query_weight: [Q], merge weight of each query (mean over slots), sums to 1.
    top_query: the query with the largest weight.
    """

    per_query: Tensor
    summary: Tensor
    query_weight: Tensor
    top_query: int


@dataclass(frozen=True)
class ExpertOutput:
    """actions [B, H, A]; pooled: one [B, width] a fusion layer; compressed: likewise; fused [B, K] after the trunk."""

    actions_BHA: Tensor
    pooled: tuple[Tensor, ...]
    compressed: tuple[Tensor, ...]
    fused_BK: Tensor


class QueryAttention(AttentionLayer):
    """Multi-head attention with q, k, v packed in one weight and with biases (names of torch's MultiheadAttention)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BQD: Tensor, tokens_BSD: Tensor) -> Tensor:
        q, k = self._queries_and_keys(query_BQD, tokens_BSD)
        v = F.linear(tokens_BSD, self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2])
        mixed: Tensor = self.out_proj(attention(q, k, v, self.num_heads, method=self.method))
        return mixed

    def weights(self, query_BQD: Tensor, tokens_BSD: Tensor) -> Tensor:
        """Attention weights [B, heads, Q, S]."""
        q, k = (
            x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x in self._queries_and_keys(query_BQD, tokens_BSD)
        )
        return attention_weights(q, k)

    def merged(self, query_QD: Tensor, tokens_BSD: Tensor, norm: nn.LayerNorm, merge_MQ: Tensor) -> Tensor:
        """merge [M, Q] times the answers to every sample's same queries, from tokens before their norm: [B, M, D].

        Key and value projections and the norm's affine go into the queries and behind the sum, which the sums of the
        weights (1) and of merge's rows (1) allow: exact, and a third of the FLOPs. With `kernels`, norm and attention
        are one operator (`lightwam.model.ops.learned_query_pool`). In at least float32 up to the output projection.
        """
        pool = ops.learned_query_pool if self.method == "kernels" else ops.plain_learned_query_pool
        wide = torch.promote_types(tokens_BSD.dtype, torch.float32)
        with _without_autocast(tokens_BSD.device.type):
            weight_q, weight_k, weight_v = self.in_proj_weight.to(wide).chunk(3)
            bias_q, _, bias_v = self.in_proj_bias.to(wide).chunk(3)
            affine, shift = norm.weight.to(wide), norm.bias.to(wide)
            queries = F.linear(query_QD.to(wide), weight_q, bias_q).unflatten(-1, (self.num_heads, -1))  # type: ignore[no-untyped-call]
            keys, values = (x.unflatten(0, (self.num_heads, -1)) for x in (weight_k, weight_v))  # type: ignore[no-untyped-call]
            scores = torch.einsum("qhe,hed->hqd", queries, keys) * affine * queries.shape[-1] ** -0.5
            pooled = pool(tokens_BSD, scores, merge_MQ, norm.eps) * affine + shift
            answers = torch.einsum("bmhd,hed->bmhe", pooled, values).flatten(2) + bias_v
        mixed: Tensor = self.out_proj(answers.to(tokens_BSD.dtype))
        return mixed

    def _queries_and_keys(self, query_BQD: Tensor, tokens_BSD: Tensor) -> tuple[Tensor, Tensor]:
        (weight_q, weight_k, _), (bias_q, bias_k, _) = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return F.linear(query_BQD, weight_q, bias_q), F.linear(tokens_BSD, weight_k, bias_k)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast off, on devices that know it (the meta device does not)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class LearnedQueryPooler(nn.Module):
    """Q learned queries attend to the normed tokens; softmax merge weights turn their outputs into one vector.

    Without `merge_dim` one weighted average [B, D]. With it, M averages are concatenated, normed and projected to
    [B, merge_dim].
    """

    def __init__(self, dim: int, config: ActionExpertConfig):
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.query_tokens = nn.Parameter(torch.randn(config.num_queries, dim) * 0.02)
        self.attn = QueryAttention(dim, config.num_heads)
        if config.merge_dim is None:
            self.query_merge_logits = nn.Parameter(torch.zeros(config.num_queries))
        else:
            slots_dim = config.merge_slots * dim
            self.query_slot_merge_logits = nn.Parameter(torch.zeros(config.merge_slots, config.num_queries))
            self.query_merge_projector = nn.Sequential(nn.LayerNorm(slots_dim), nn.Linear(slots_dim, config.merge_dim))
        self.merges_slots = config.merge_dim is not None
        self.output_norm = nn.LayerNorm(config.merge_dim or dim)

    def forward(self, tokens_BSD: Tensor, fold: bool = False) -> Tensor:
        """`fold`: compute `QueryAttention.merged`, as `kernels` always do: the same function."""
        if fold or self.attn.method == "kernels":
            merged = self.attn.merged(self.query_tokens, tokens_BSD, self.token_norm, self.merge_weights()).flatten(1)
        else:
            answers_BQD = self.attn(self._queries(tokens_BSD), self.token_norm(tokens_BSD))
            merged = (self.merge_weights().to(answers_BQD.dtype) @ answers_BQD).flatten(1)
        if self.merges_slots:
            merged = self.query_merge_projector(merged)
        pooled: Tensor = self.output_norm(merged)
        return pooled

    def merge_weights(self) -> Tensor:
        """[M, Q], rows sum to 1; M is 1 where no slots are merged."""
        logits = self.query_slot_merge_logits if self.merges_slots else self.query_merge_logits[None]
        return torch.softmax(logits, dim=-1)

    def attention_summary(self, tokens_BSD: Tensor) -> PoolerAttention:
        """Where the queries look; see `PoolerAttention`."""
        per_query = self.attn.weights(self._queries(tokens_BSD), self.token_norm(tokens_BSD)).mean(dim=1)
        query_weight = self.merge_weights().mean(dim=0)
        summary = (query_weight.to(per_query.dtype) @ per_query).squeeze(1)
        return PoolerAttention(per_query, summary, query_weight, int(query_weight.argmax()))

    def _queries(self, tokens_BSD: Tensor) -> Tensor:
        return self.query_tokens.expand(tokens_BSD.shape[0], -1, -1)


class MLP(nn.Module):
    """LN, linear, GELU(tanh), linear; `residual` adds the input."""

    def __init__(self, in_dim: int, out_dim: int, residual: bool):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.fc1 = nn.Linear(in_dim, out_dim)
        self.fc2 = nn.Linear(out_dim, out_dim)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x)), approximate="tanh"))
        return x + y if self.residual else y


class StateFusionActionExpert(nn.Module):
    """Pool, compress and fuse the adapter layers' states, then decode every step of the chunk at once."""

    def __init__(self, config: ActionExpertConfig, hidden_dim: int, num_layers: int, action_dim: int):
        super().__init__()
        self.config = config
        self.sources = config.sources_per_layer(num_layers)
        pooled_dim = config.merge_dim or hidden_dim
        trunk = config.trunk_dim
        self.layer_poolers = nn.ModuleList(
            nn.ModuleDict(
                {source: LearnedQueryPooler(hidden_dim, config) for source in sources}
                if config.pooling == "learned_query"
                else {}
            )
            for sources in self.sources
        )
        self.layer_compressors = nn.ModuleList(
            MLP(pooled_dim * len(sources), config.per_layer_dim, residual=False) for sources in self.sources
        )
        self.fused_norm = nn.LayerNorm(config.per_layer_dim * num_layers)
        self.fused_proj = nn.Linear(config.per_layer_dim * num_layers, trunk)
        self.trunk = nn.ModuleList(MLP(trunk, trunk, residual=True) for _ in range(config.num_trunk_blocks))
        self.step_pos_proj = nn.Sequential(
            nn.LayerNorm(config.step_pos_dim),
            nn.Linear(config.step_pos_dim, trunk),
            nn.GELU("tanh"),
            nn.Linear(trunk, trunk),
        )
        self.output_norm = nn.LayerNorm(trunk)
        self.output = nn.Sequential(nn.Linear(trunk, trunk), nn.GELU("tanh"), nn.Linear(trunk, action_dim))

    def forward(self, states: Sequence[LayerState], horizon: int, fold: bool = False) -> ExpertOutput:
        """Decode a chunk of `horizon` actions from one state an adapter layer, in rising order of blocks.

        `fold`: see `LearnedQueryPooler.forward`.
        """
        pooled = tuple(self.pool(layer, state, fold) for layer, state in enumerate(states))
        compressed = tuple(compress(vector) for compress, vector in zip(self.layer_compressors, pooled, strict=True))
        fused: Tensor = self.fused_proj(self.fused_norm(torch.cat(compressed, dim=-1)))
        for block in self.trunk:
            fused = block(fused)
        steps = self.step_pos_proj(self.step_positions(horizon))
        actions: Tensor = self.output(self.output_norm(fused[:, None] + steps[None]))
        return ExpertOutput(actions, pooled, compressed, fused)

    def pool(self, layer: int, state: LayerState, fold: bool = False) -> Tensor:
        """The concatenated pooled sources of one adapter layer (counted from 0): [B, sources * width]."""
        tokens = self.source_tokens(layer, state)
        if self.config.pooling == "mean":
            return torch.cat([x.mean(dim=1) for x in tokens.values()], dim=-1)
        return torch.cat([self.pooler(layer, source)(x, fold) for source, x in tokens.items()], dim=-1)

    def pooler(self, layer: int, source: FeatureSource) -> LearnedQueryPooler:
        """The pooler of one source of one adapter layer. Raises `ConfigError` where pooling is the mean."""
        if self.config.pooling != "learned_query":
            raise ConfigError("action_expert.pooling is 'mean': only 'learned_query' pooling has poolers")
        pooler = self.layer_poolers[layer][source]  # type: ignore[index]
        assert isinstance(pooler, LearnedQueryPooler)
        return pooler

    def source_tokens(self, layer: int, state: LayerState) -> dict[FeatureSource, Tensor]:
        """The tokens [B, S, D] of the sources that an adapter layer contributes, in order."""
        made: dict[FeatureSource, Tensor] = {}
        for source in self.sources[layer]:
            if source == "delta":
                made[source] = state.adapted - state.backbone
            else:
                made[source] = state.adapted if source == "adapted" else state.backbone
        return made

    def step_positions(self, horizon: int) -> Tensor:
        """Sinusoids of the step numbers 0 .. H-1: [H, step_pos_dim], in the weights' type."""
        weight = self.output_norm.weight  # of what adds the steps up: large weights may be narrower while not in use
        return sinusoidal_embedding(torch.arange(horizon, device=weight.device), self.config.step_pos_dim).to(
            weight.dtype
        )
