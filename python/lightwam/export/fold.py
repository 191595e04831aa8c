# SPDX-License-Identifier: Apache-2.0
"""The exact savings: what may be folded because the action pass is a fixed function, one function a saving.

Saving 7 is the op `text_key_bias`; saving 12 needs no function: weights are read by name.

Every function here works on float64 tensors and gives the same policy up to rounding. The numbers are those of
docs/reference/export.md. Symbols: D width, K input width, N output width, P state width, H horizon, Z latent channels,
Q queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightwam.config import LightWAMConfig, VideoDiTConfig


@dataclass(frozen=True)
class Affine:
    """y = weight x + bias; weight [N, K], bias [N]."""

    weight: Tensor
    bias: Tensor

    def then(self, other: Affine) -> Affine:
        """The affine map `other(self(x))`."""
        return Affine(other.weight @ self.weight, other.weight @ self.bias + other.bias)


def blocks_needed(dit: VideoDiTConfig) -> int:
    """Saving 1: the expert reads the adapter layers only, so blocks after the last one, and the head, are dropped."""
    return dit.adapters.layers[-1] + 1


def first_frame_kernel(weight: Tensor) -> Tensor:
    """Saving 2: causal 3-D kernel [O, I, t, h, w] -> [O, h, w, I]: one frame after zero frames meets the last tap."""
    return weight[:, :, -1].permute(0, 2, 3, 1).contiguous()


def merge_lora(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Saving 3: W x + scale * up(down(x)) = (W + scale * up down) x. `scale` is alpha / rank."""
    return weight + scale * (up @ down)


def time_modulation(time_embedding: tuple[Affine, Affine], time_projection: Affine, freq_dim: int) -> Tensor:
    """Saving 4: every token of the action pass has t = 0, so the time branch is a constant [6, D]."""
    half = freq_dim // 2
    sinusoid = torch.cat([torch.ones(half, dtype=torch.float64), torch.zeros(half, dtype=torch.float64)])
    first, second = time_embedding
    t = second.weight @ F.silu(first.weight @ sinusoid + first.bias) + second.bias
    return (time_projection.weight @ F.silu(t) + time_projection.bias).reshape(6, -1)


def absorb_scale_shift(linear: Affine, scale: Tensor, shift: Tensor, in_place: bool = False) -> Affine:
    """Saving 4: W (scale * x + shift) + b = (W diag(scale)) x + (b + W shift): modulation and norm affines alike.

    `in_place` overwrites the linear's weight: for the largest, of which two in float64 would be the export's peak.
    """
    bias = linear.bias + linear.weight @ shift
    return Affine(linear.weight.mul_(scale) if in_place else linear.weight * scale, bias)


def absorb_gate(linear: Affine, gate: Tensor) -> Affine:
    """Saving 4: gate * (W x + b) as one affine map; adapter scales and denormalisation likewise."""
    return Affine(gate[:, None] * linear.weight, gate * linear.bias)


def action_pass_needs_no_mask(config: LightWAMConfig) -> bool:
    """Saving 5: one frame sees itself under every mask kind, and all context rows are attended to."""
    return config.video_dit.attention_mask in ("first_frame_causal", "per_frame_causal", "bidirectional")


def fold_proprio(proprio_encoder: Affine, text_embedding_first: Affine) -> Affine:
    """Saving 6: text rows are embedded once an instruction; the step's proprio row needs D x P numbers only."""
    return proprio_encoder.then(text_embedding_first)


@dataclass(frozen=True)
class FoldedPooler:
    """scores [heads * Q, D], merge [M, Q], value [heads, d, D], value_bias [heads * d]; tokens enter as plain LN."""

    scores: Tensor
    merge: Tensor
    value: Tensor
    value_bias: Tensor


def fold_pooler(
    token_norm: tuple[Tensor, Tensor], query_tokens: Tensor, in_proj: Affine, merge_logits: Tensor, heads: int
) -> FoldedPooler:
    """Saving 8: queries are constants, so keys fold into scores; averaging over queries comes before the value linear.

    Terms of the logits that are equal for all tokens drop out of the softmax; shares and merge weights sum to one, so
    the norm's shift and the value bias pass through the averages. `merge_logits` is [M, Q], in_proj packs q, k, v.
    """
    norm_weight, norm_bias = token_norm
    width = query_tokens.shape[1]
    weight_q, weight_k, weight_v = torch.split(in_proj.weight, width)
    bias_q, _, bias_v = torch.split(in_proj.bias, width)
    queries = (query_tokens @ weight_q.T + bias_q).reshape(-1, heads, width // heads)
    keys = weight_k.reshape(heads, -1, width)
    scores = torch.einsum("qhd,hdk->hqk", queries, keys) / math.sqrt(width // heads)
    value = absorb_scale_shift(Affine(weight_v, bias_v), norm_weight, norm_bias)
    return FoldedPooler(
        scores=(scores * norm_weight).flatten(0, 1),
        merge=merge_logits.softmax(-1),
        value=value.weight.reshape(heads, -1, width),
        value_bias=value.bias,
    )


def step_positions(horizon: int, norm: tuple[Tensor, Tensor], first: Affine, second: Affine, eps: float) -> Tensor:
    """Saving 9: the projected sinusoids of the chunk's steps are a constant [H, N]."""
    dim = norm[0].shape[0]
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(horizon, dtype=torch.float64), frequency)
    # The model's sinusoids are float32 numbers.
    sinusoid = torch.cat((angle.cos(), angle.sin()), -1).to(torch.float32).to(torch.float64)
    normed = F.layer_norm(sinusoid, (dim,), *norm, eps)
    hidden = F.gelu(normed @ first.weight.T + first.bias, approximate="tanh")
    return hidden @ second.weight.T + second.bias


def rope_tables(grid: tuple[int, int], head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Saving 10: cos and sin [rows * columns, head_dim / 2] of the one frame's fixed grid."""
    third = head_dim // 3
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    parts = ((torch.zeros_like(rows), head_dim - 2 * third), (rows, third), (columns, third))
    angles = [
        torch.outer(position, theta ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels))
        for position, channels in parts
    ]
    table = torch.cat(angles, -1)
    return table.cos(), table.sin()


def fold_latent_head(head: tuple[Tensor, Tensor], last: Affine, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Saving 11: mean half only; (mu - mean) / std and the last 1x1 convolution fold into the head convolution.

    `head` is the 2-D kernel [2Z, h, w, C] with its bias [2Z]; `last` maps 2Z to 2Z channels. Returns [Z, h, w, C], [Z].
    """
    kernel, bias = head
    z_dim = mean.shape[0]
    mean_half = Affine(last.weight[:z_dim], last.bias[:z_dim])
    normalized = Affine(mean_half.weight / std[:, None], (mean_half.bias - mean) / std)
    return torch.einsum("zc,chwi->zhwi", normalized.weight, kernel), normalized.weight @ bias + normalized.bias


def pooled_patch_kernel(weight: Tensor, factor: int) -> Tensor:
    """Averaging `factor` x `factor` latents before the patch kernel [D, C, h, w] is a larger kernel [D, h', w', C]."""
    spread = weight.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / float(factor**2)
    return spread.permute(0, 2, 3, 1).contiguous()


def split_heads(weight: Tensor, heads: int) -> Tensor:
    """Saving 13: an output projection [N, heads*d] as [heads, N, d]. Applied to a key's value, head by head, it gives
    what the key adds to every token that attends to it, so sum_k p_k V_k, then O, becomes sum_k p_k (O V_k).
    """
    return weight.reshape(weight.shape[0], heads, -1).transpose(0, 1).contiguous()


def cross_output_flops(dit: VideoDiTConfig, tokens: int, keys: int, folded: bool) -> int:
    """FLOPs of a block and chunk from cross-attention's logits to its output, for one proprio key among `keys`."""
    inner, hidden = dit.attention_dim, dit.hidden_dim
    if folded:
        return 2 * tokens * keys * (inner + dit.num_heads * hidden) + 2 * inner * hidden
    return 4 * tokens * keys * inner + 2 * tokens * inner * hidden
