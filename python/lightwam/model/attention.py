# SPDX-License-Identifier: Apache-2.0
"""Attention over packed heads, the DiT's two attention layers, and the RMS norm of their queries and keys.

Shapes: B batch, S query tokens, L key rows, D hidden width, E = heads * head_dim.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import VideoDiTConfig
from lightwam.model import ops
from lightwam.model.lora import LoRA, apply_linear, linear_of_heads, lora_for
from lightwam.model.rope import RotaryTable, apply_rope

AttentionMethod = Literal["sdpa", "softmax", "kernels"]
"""`sdpa`: torch's fused kernel. `softmax`: plain matmuls, whose backward in bf16 is several times faster on a
CPU. `kernels`: the operators of `lightwam.model.ops` (our Triton kernels on CUDA, plain PyTorch elsewhere) for
self-attention and learned-query pooling; attention under a mask of a sample's own keys is left to `sdpa`. Same function
up to rounding."""


class QuerySpan(NamedTuple):
    """Queries [start, stop) see the keys [first_key, end_key), all of them alike."""

    start: int
    stop: int
    first_key: int
    end_key: int


def attention(
    q_BSE: Tensor,
    k_BLE: Tensor,
    v_BLE: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
    method: AttentionMethod = "sdpa",
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v for every head.

    Args:
        q_BSE: queries; k_BLE, v_BLE: keys and values; E = num_heads * head_dim.
        mask: broadcastable to [B, heads, S, L]: boolean, True where a query may look, or numbers added to the scores
            (then computed as `softmax` does); None lets all see all.
        method: how to compute it.

    Returns:
        [B, S, E].
    """
    if method == "kernels" and mask is None:
        return ops.self_attention(q_BSE, k_BLE, v_BLE, num_heads)
    q, k, v = (split_heads(x, num_heads) for x in (q_BSE, k_BLE, v_BLE))
    if method != "softmax" and (mask is None or mask.dtype == torch.bool):
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        attended = attention_weights(q, k, mask).to(v.dtype) @ v
    return attended.transpose(1, 2).flatten(2)


def split_heads(x_BSE: Tensor, num_heads: int) -> Tensor:
    """[B, S, E] -> [B, heads, S, head_dim], a view."""
    return x_BSE.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) of [B, heads, S, d] and [B, heads, L, d], softmax in at least float32."""
    logits = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the whole last dimension, in at least float32."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (normed * self.weight).to(x.dtype)


class AttentionLayer(nn.Module):
    """A layer that computes attention; `method` says how."""

    method: AttentionMethod = "sdpa"


class _Projections(AttentionLayer):
    """q, k, v, o with their norms and their LoRA, under the published names."""

    def __init__(self, config: VideoDiTConfig, layer: int, name: str):
        super().__init__()
        hidden, inner = config.hidden_dim, config.attention_dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v = (nn.Linear(hidden, inner) for _ in range(3))
        self.o = nn.Linear(inner, hidden)
        self.norm_q, self.norm_k = RMSNorm(inner, config.eps), RMSNorm(inner, config.eps)
        self.lora_q, self.lora_k, self.lora_v = (
            lora_for(config.lora, layer, f"{name}.{linear}", hidden, inner) for linear in "qkv"
        )
        self.lora_o: LoRA | None = lora_for(config.lora, layer, f"{name}.o", inner, hidden)

    def queries(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm_q(apply_linear(self.q, self.lora_q, x))
        return normed

    def keys(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm_k(apply_linear(self.k, self.lora_k, x))
        return normed

    def values(self, x: Tensor) -> Tensor:
        return apply_linear(self.v, self.lora_v, x)

    def output(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return apply_linear(self.o, self.lora_o, attention(q, k, v, self.num_heads, mask, self.method))


class SelfAttention(_Projections):
    """Attention among the video tokens, with 3-D rotary positions on queries and keys."""

    def forward(
        self, x_BSD: Tensor, rope: RotaryTable, mask_SS: Tensor | None, spans: tuple[QuerySpan, ...], skipped: int = 0
    ) -> Tensor:
        """`spans` say what the mask says, query by query: attended to one by one where no mask is given.

        The first `skipped` tokens are keys and values alone: the result is of the others.
        """
        q = apply_rope(self.queries(x_BSD[:, skipped:]), rope.from_token(skipped), self.num_heads)
        k, v = apply_rope(self.keys(x_BSD), rope, self.num_heads), self.values(x_BSD)
        if mask_SS is not None and self.method != "kernels":
            return self.output(q, k, v, mask_SS[skipped:])
        parts = []
        for start, stop, first, end in spans:
            if stop > skipped:
                seen = (q[:, max(start - skipped, 0) : stop - skipped], k[:, first:end], v[:, first:end])
                parts.append(attention(*seen, self.num_heads, method=self.method))
        return apply_linear(self.o, self.lora_o, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))


class CrossAttention(_Projections):
    """Attention from the video tokens to the context rows; no positions."""

    def forward(self, x_BSD: Tensor, context_BLD: Tensor, mask: Tensor | None, by_key: bool = False) -> Tensor:
        """`by_key`: project every key's value, not every query's sum of them, where keys are so few that this pays."""
        q, k, v = self.queries(x_BSD), self.keys(context_BLD), self.values(context_BLD)
        if not (by_key and _projecting_keys_pays(context_BLD.shape[1], q.shape[-1] // self.num_heads)):
            return self.output(q, k, v, mask)
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))
        weights, projected = attention_weights(q, k, mask).to(v.dtype), linear_of_heads(self.o, self.lora_o, v)
        return torch.einsum("bhsl,bhld->bsd", weights, projected) + self.o.bias


def _projecting_keys_pays(keys: int, head_dim: int) -> bool:
    """Whether sums of heads * keys projected values need fewer FLOPs, gradients included, than projecting queries."""
    return 3 * keys < 2 * head_dim
