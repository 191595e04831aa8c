# SPDX-License-Identifier: Apache-2.0
"""Attention and learned-query pooling as PyTorch operators: our Triton kernels on CUDA, plain PyTorch elsewhere.

`lightwam::self_attention` and `lightwam::learned_query_pool`, each with a backward operator; all have shapes without
data (torch.compile, FakeTensor). Kernels and plain forms compute the same gradients by the same formulas.

Shapes: B batch, S queries or pooled tokens, L keys, E = heads * head_dim, D width, H heads, Q queries of a head,
M merged slots, C = H * (M + Q). Source of the backward of attention: FlashAttention (arXiv 2205.14135).
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from lightwam.errors import ConfigError
from lightwam.extras import missing_module

LOG2_E = math.log2(math.e)


def self_attention(q_BSE: Tensor, k_BLE: Tensor, v_BLE: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v of every head; every query sees every key. [B, S, E], in the type of v.

    Raises:
        ConfigError: where shapes do not fit, or on CUDA a type other than float32, float16, bfloat16.
    """
    batch, row = k_BLE.shape[0], k_BLE.shape[-1]
    if k_BLE.shape != v_BLE.shape or (q_BSE.shape[0], q_BSE.shape[-1]) != (batch, row) or row % num_heads:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BSE, k_BLE, v_BLE))
        raise ConfigError(f"q, k, v have shapes {shapes} for {num_heads} heads: give [B, S, E], [B, L, E], [B, L, E]")
    q, k, v = (x.to(v_BLE.dtype).contiguous() for x in (q_BSE, k_BLE, v_BLE))
    attended: Tensor = _self_attention(q, k, v, num_heads)[0]
    return attended


def learned_query_pool(x_BSD: Tensor, scores_HQD: Tensor, merge_MQ: Tensor, eps: float) -> Tensor:
    """Tokens averaged by what learned queries see in them, in at least float32: [B, M, H, D].

    y[m, h] = sum over s, q of merge[m, q] p[h, q, s] n[s]: n are the layer-normalised tokens (no affine), p[h, q]
    is the softmax over the tokens of n[s] scores[h, q] (docs/reference/engine-format.md, `learned_query_pool`).

    Raises:
        ConfigError: where shapes do not fit, or on CUDA tokens of a type other than float32, float16, bfloat16.
    """
    if scores_HQD.shape[-1] != x_BSD.shape[-1] or merge_MQ.shape[-1] != scores_HQD.shape[1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (x_BSD, scores_HQD, merge_MQ))
        raise ConfigError(f"tokens, scores, merge have shapes {shapes}: give [B, S, D], [H, Q, D], [M, Q]")
    wide = torch.promote_types(x_BSD.dtype, torch.float32)
    scores, merge = (x.to(wide).contiguous() for x in (scores_HQD, merge_MQ))
    pooled: Tensor = _learned_query_pool(x_BSD.contiguous(), scores, merge, eps)
    return pooled


def plain_learned_query_pool(x_BSD: Tensor, scores_HQD: Tensor, merge_MQ: Tensor, eps: float) -> Tensor:
    """As `learned_query_pool`, in PyTorch's own operators."""
    normal = _layer_norm(x_BSD, eps)[0]
    scores, merge = scores_HQD.to(normal.dtype), merge_MQ.to(normal.dtype)
    weights = torch.softmax(torch.einsum("bsd,hqd->bhqs", normal, scores), dim=-1)
    return torch.einsum("bmhs,bsd->bmhd", torch.einsum("mq,bhqs->bmhs", merge, weights), normal)


# Self-attention ------------------------------------------------------------------------------------------------------


@torch.library.custom_op("lightwam::self_attention", mutates_args=())
def _self_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """y [B, S, E], and the logarithm in base 2 of every query's sum of exponentials, f32 or f64 [B, H, S]."""
    wide_q, wide_k, wide_v = (_split(x, num_heads) for x in (q, k, v))
    logits = wide_q @ wide_k.transpose(-1, -2) / math.sqrt(wide_q.shape[-1])
    logsumexp = torch.logsumexp(logits, dim=-1)
    attended = torch.exp(logits - logsumexp[..., None]) @ wide_v
    return _merge(attended, q), logsumexp * LOG2_E


@_self_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty((q.shape[0], num_heads, q.shape[1]), dtype=wide)


@torch.library.custom_op("lightwam::self_attention_backward", mutates_args=())
def _self_attention_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, logsumexp: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv, in the shapes and types of q, k, v."""
    wide_q, wide_k, wide_v, wide_y, wide_dy = (_split(x, num_heads) for x in (q, k, v, y, dy))
    scale = 1.0 / math.sqrt(wide_q.shape[-1])
    weights = torch.exp2(wide_q @ wide_k.transpose(-1, -2) * (scale * LOG2_E) - logsumexp[..., None])
    delta = (wide_y * wide_dy).sum(-1, keepdim=True)
    change = weights * (wide_dy @ wide_v.transpose(-1, -2) - delta) * scale
    dk, dv = change.transpose(-1, -2) @ wide_q, weights.transpose(-1, -2) @ wide_dy
    return _merge(change @ wide_k, q), _merge(dk, k), _merge(dv, v)


@_self_attention_backward.register_fake
def _(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, logsumexp: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.num_heads = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _attention_gradients(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
    gradients = _self_attention_backward(dy.contiguous(), *ctx.saved_tensors, ctx.num_heads)
    return (*gradients, None)


_self_attention.register_autograd(_attention_gradients, setup_context=_save_attention)


def _split(x_BSE: Tensor, num_heads: int) -> Tensor:
    """[B, S, E] -> [B, H, S, head_dim] in at least float32."""
    wide = x_BSE.to(torch.promote_types(x_BSE.dtype, torch.float32))
    return wide.reshape(*x_BSE.shape[:2], num_heads, -1).transpose(1, 2)


def _merge(x_BHSd: Tensor, like_BSE: Tensor) -> Tensor:
    """[B, H, S, head_dim] -> [B, S, E] of its own memory, in the type of `like`."""
    return x_BHSd.transpose(1, 2).reshape(like_BSE.shape).to(like_BSE.dtype).contiguous()


@_self_attention.register_kernel("cuda")
def self_attention_by_kernel(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """As the plain form of `lightwam::self_attention`, by the Triton kernel (in the interpreter on the CPU)."""
    batch, queries, keys, width = q.shape[0], q.shape[1], k.shape[1], q.shape[2] // num_heads
    form, scale = _kernel_format("self_attention", q), 1.0 / math.sqrt(width)
    shared = {"x": form, "y": form, "scale": scale, "batch": batch, "queries": queries, "logsumexp": True}
    y, logsumexp = _run("self_attention", (keys, num_heads, width), shared, (q, k, v))
    return y.view_as(q), logsumexp


@_self_attention_backward.register_kernel("cuda")
def self_attention_backward_by_kernel(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, logsumexp: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As the plain form of `lightwam::self_attention_backward`, by two Triton kernels."""
    batch, queries, keys, width = q.shape[0], q.shape[1], k.shape[1], q.shape[2] // num_heads
    form, scale = _kernel_format("self_attention", q), 1.0 / math.sqrt(width)
    sizes, options = (queries, keys, num_heads, width), {"x": form, "scale": scale, "batch": batch}
    dq, delta = _run("self_attention_backward_query", sizes, options, (q, k, v, y, dy, logsumexp))
    dk, dv = _run("self_attention_backward_key", sizes, options, (q, k, v, dy, logsumexp, delta))
    return dq, dk, dv


# Learned-query pooling -----------------------------------------------------------------------------------------------


@torch.library.custom_op("lightwam::learned_query_pool", mutates_args=())
def _learned_query_pool(x: Tensor, scores: Tensor, merge: Tensor, eps: float) -> Tensor:
    """y [B, M, H, D] of x [B, S, D], scores [H, Q, D], merge [M, Q], in the type of the scores."""
    return plain_learned_query_pool(x, scores, merge, eps).contiguous()


@_learned_query_pool.register_fake
def _(x: Tensor, scores: Tensor, merge: Tensor, eps: float) -> Tensor:
    return scores.new_empty((x.shape[0], merge.shape[0], scores.shape[0], x.shape[2]))


@torch.library.custom_op("lightwam::learned_query_pool_backward", mutates_args=())
def _learned_query_pool_backward(
    dy: Tensor, x: Tensor, scores: Tensor, merge: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dscores, dmerge, in the shapes and types of x, scores, merge."""
    normal, scale = _layer_norm(x, eps)
    weights = torch.softmax(torch.einsum("bsd,hqd->bhqs", normal, scores), dim=-1)
    products = torch.einsum("bmhd,bsd->bmhs", dy, normal)
    change = torch.einsum("mq,bmhs->bhqs", merge, products)
    change = weights * (change - (weights * change).sum(-1, keepdim=True))
    dnormal = torch.einsum("mq,bhqs,bmhd->bsd", merge, weights, dy) + torch.einsum("bhqs,hqd->bsd", change, scores)
    along = (dnormal * normal).mean(-1, keepdim=True)
    dx = scale * (dnormal - dnormal.mean(-1, keepdim=True) - normal * along)
    dscores, dmerge = torch.einsum("bhqs,bsd->hqd", change, normal), torch.einsum("bhqs,bmhs->mq", weights, products)
    return dx.to(x.dtype).contiguous(), dscores.contiguous(), dmerge.contiguous()


@_learned_query_pool_backward.register_fake
def _(dy: Tensor, x: Tensor, scores: Tensor, merge: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(scores), torch.empty_like(merge)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scores, merge, ctx.eps = inputs
    ctx.save_for_backward(x, scores, merge)


def _pool_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return (*_learned_query_pool_backward(dy.contiguous(), *ctx.saved_tensors, ctx.eps), None)


_learned_query_pool.register_autograd(_pool_gradients, setup_context=_save_pool)


def _layer_norm(x_BSD: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised tokens [B, S, D] and 1 / deviation [B, S, 1], in at least float32."""
    wide = x_BSD.to(torch.promote_types(x_BSD.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, dim=-1, keepdim=True, correction=0)
    scale = torch.rsqrt(variance + eps)
    return (wide - mean) * scale, scale


@_learned_query_pool.register_kernel("cuda")
def learned_query_pool_by_kernel(x: Tensor, scores: Tensor, merge: Tensor, eps: float) -> Tensor:
    """As the plain form of `lightwam::learned_query_pool`, by two Triton kernels (in the interpreter on the CPU)."""
    (batch, tokens, width), (heads, queries, _), slots = x.shape, scores.shape, len(merge)
    form, sizes = _kernel_format("learned_query_pool", x), (tokens, width, heads, queries)
    every, merges = _for_each(scores.flatten(0, 1), batch), _for_each(merge, batch)
    logits, moments = _run("learned_query_scores", sizes, {"x": form, "eps": eps, "batch": batch}, (x, every))
    options = {"slots": slots, "x": form, "y": "f32", "batch": batch}
    return _run("learned_query_sum", sizes, options, (x, logits, moments, merges))[0]


@_learned_query_pool_backward.register_kernel("cuda")
def learned_query_pool_backward_by_kernel(
    dy: Tensor, x: Tensor, scores: Tensor, merge: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As the plain form of `lightwam::learned_query_pool_backward`, by four Triton kernels."""
    (batch, tokens, width), (heads, queries, _), slots = x.shape, scores.shape, len(merge)
    form, merges = _kernel_format("learned_query_pool", x), _for_each(merge, batch)
    factors = torch.cat((dy.flatten(1, 2), _for_each(scores.flatten(0, 1), batch)), dim=1)  # [B, C, D]
    count = factors.shape[1]
    options = {"x": form, "batch": batch}
    products, moments = _run("learned_query_scores", (tokens, width, 1, count), {**options, "eps": eps}, (x, factors))
    gradients, dmerge = _run(
        "learned_query_pool_backward_weights",
        (tokens, heads, queries),
        {"slots": slots, "batch": batch},
        (products, merges),
    )
    read = (x, moments, factors, factors.mean(-1), products, gradients)
    (dx,) = _run("learned_query_pool_backward_tokens", (tokens, width, count), options, read)
    skipped = {**options, "skipped": slots * heads}
    sizes = (tokens, width, heads * queries)
    (dscores,) = _run("learned_query_pool_backward_scores", sizes, skipped, (x, moments, gradients))
    return dx, dscores.sum(0).view_as(scores), dmerge.sum((0, 1))


def _for_each(x: Tensor, batch: int) -> Tensor:
    """[...] -> [B, ...], one copy a sample: the kernels know no sharing."""
    return x.expand(batch, *x.shape).contiguous()


# Kernels -------------------------------------------------------------------------------------------------------------


def _kernel_format(operator: str, x: Tensor) -> str:
    formats = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
    if x.dtype not in formats:
        raise ConfigError(f"{operator} on {x.device.type} got {x.dtype}: use float32, float16 or bfloat16")
    return formats[x.dtype]


def _run(
    kernel: str, sizes: tuple[int, ...], options: dict[str, Any], tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The tensors that a kernel of `lightwam.kernels` writes, from those that it reads."""
    try:
        launcher = importlib.import_module("lightwam.kernels.torch_launch")
        module = importlib.import_module(f"lightwam.kernels.ops.{kernel}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"kernel {kernel}: {missing_module(error.name or 'triton')}") from None
    task = module.task(*sizes, **options)
    shaped = (x.view(a.shape) for x, a in zip(tensors, (a for a in task.arguments if a.mode == "r"), strict=True))
    try:
        return tuple(launcher.launch(task, list(shaped)))
    except launcher.CompileError as error:
        raise ConfigError(f"{error}: choose attention 'sdpa' or 'softmax' on this GPU") from None
