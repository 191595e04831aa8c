# SPDX-License-Identifier: Apache-2.0
"""The video diffusion transformer (Wan2.1 architecture) with two times, LoRA and residual adapters.

Shapes: B batch, C latent channels, T times, S tokens, D hidden width, L context rows. Tokens of the first latent frame
have time 0, all others the sampled time, so T is 2, or 1 where there is one frame.
Source: Light-WAM (arXiv 2606.08242), backbone of Wan2.1-T2V-1.3B. Parameter names are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightwam.config import AttentionMask, VideoDiTConfig
from lightwam.errors import ConfigError
from lightwam.model.adapters import ResidualAdapter
from lightwam.model.attention import CrossAttention, QuerySpan, SelfAttention
from lightwam.model.lora import apply_linear, lora_for
from lightwam.model.rope import RotaryTable, rope_table


@dataclass
class DiTInputs:
    """Everything the blocks read: one forward pass's tokens, times, context and masks.

    time_sizes: how many tokens have the first time, how many the next one.
    self_mask_SS, self_spans: which tokens see which, said in two ways; without a mask the spans count.
    by_key: see `CrossAttention`.
    later_only: the tokens of the first time are keys and values alone, and do not leave the block.
    """

    tokens_BSD: Tensor
    t_BTD: Tensor
    t_mod_BT6D: Tensor
    time_sizes: tuple[int, ...]
    context_BLD: Tensor
    rope: RotaryTable
    grid: tuple[int, int, int]
    self_mask_SS: Tensor | None
    self_spans: tuple[QuerySpan, ...]
    cross_mask: Tensor | None
    by_key: bool = False
    later_only: bool = False


@dataclass
class LayerState:
    """Tokens [B, S, D] around one adapter: `backbone` is h, `adapted` is h'."""

    backbone: Tensor
    adapted: Tensor

    def of_tokens(self, count: int) -> LayerState:
        """The first `count` tokens."""
        return LayerState(self.backbone[:, :count], self.adapted[:, :count])


@dataclass
class DiTOutput:
    """Tokens after the last block that ran, and the state at every adapter layer by block number."""

    tokens_BSD: Tensor
    states: dict[int, LayerState]


def sinusoidal_embedding(position: Tensor, dim: int) -> Tensor:
    """[N] -> [N, dim]: cos then sin of position * 10000^(-i / (dim / 2)), angles in float64."""
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=position.device) / half)
    angle = torch.outer(position.to(torch.float64), frequency)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def video_mask(kind: AttentionMask, frames: int, tokens_per_frame: int, device: torch.device) -> Tensor | None:
    """Boolean [S, S], True where a query token (row) may see a key token; None where all see all."""
    if kind == "bidirectional" or frames == 1:
        return None
    frame = torch.arange(frames, device=device).repeat_interleave(tokens_per_frame)
    if kind == "per_frame_causal":
        return frame[:, None] >= frame[None, :]
    return (frame[:, None] > 0) | (frame[None, :] == 0)


def video_spans(kind: AttentionMask, frames: int, tokens_per_frame: int) -> tuple[QuerySpan, ...]:
    """`video_mask` as spans of queries: what a query sees is always the first keys."""
    first, tokens = tokens_per_frame, frames * tokens_per_frame
    if kind == "bidirectional" or frames == 1:
        return (QuerySpan(0, tokens, 0, tokens),)
    if kind == "first_frame_causal":
        return (QuerySpan(0, first, 0, first), QuerySpan(first, tokens, 0, tokens))
    return tuple(QuerySpan(frame * first, (frame + 1) * first, 0, (frame + 1) * first) for frame in range(frames))


def one_sequence(a: DiTInputs, b: DiTInputs) -> DiTInputs:
    """Two passes over the same context as one sequence, the tokens of `a` first: each sees its own tokens alone."""
    offset = a.tokens_BSD.shape[1]
    return replace(
        b,
        tokens_BSD=torch.cat((a.tokens_BSD, b.tokens_BSD), dim=1),
        t_BTD=torch.cat((a.t_BTD, b.t_BTD), dim=1),
        t_mod_BT6D=torch.cat((a.t_mod_BT6D, b.t_mod_BT6D), dim=1),
        time_sizes=(*a.time_sizes, *b.time_sizes),
        rope=RotaryTable(torch.cat((a.rope.cos, b.rope.cos)), torch.cat((a.rope.sin, b.rope.sin))),
        self_mask_SS=None,
        self_spans=(*a.self_spans, *(QuerySpan(*(offset + i for i in span)) for span in b.self_spans)),
    )


def _modulate(x_BSD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor, time_sizes: tuple[int, ...]) -> Tensor:
    shifts, scales = (vector_BTD[:, :, None].unbind(dim=1) for vector_BTD in (shift_BTD, 1 + scale_BTD))
    times = zip(x_BSD.split_with_sizes(time_sizes, dim=1), shifts, scales, strict=True)
    return _joined([torch.addcmul(shift, x, scale) for x, shift, scale in times])


def _add_gated(x_BSD: Tensor, y_BSD: Tensor, gate_BTD: Tensor, time_sizes: tuple[int, ...]) -> Tensor:
    xs, ys = (tokens_BSD.split_with_sizes(time_sizes, dim=1) for tokens_BSD in (x_BSD, y_BSD))
    times = zip(xs, ys, gate_BTD[:, :, None].unbind(dim=1), strict=True)
    return _joined([torch.addcmul(x, y, gate) for x, y, gate in times])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def check_context(context_BLE: Tensor, mask_BL: Tensor | None, text_dim: int) -> None:
    """Raise `ConfigError` unless the rows are [B, L, text_dim] and the mask, if any, booleans or counts [B, L]."""
    if context_BLE.ndim != 3 or context_BLE.shape[2] != text_dim:
        raise ConfigError(f"context has shape {tuple(context_BLE.shape)}: give [B, L, {text_dim}]")
    if mask_BL is not None and (
        mask_BL.shape != context_BLE.shape[:2] or mask_BL.dtype not in (torch.bool, torch.int64)
    ):
        given, wanted = f"{mask_BL.dtype} {tuple(mask_BL.shape)}", tuple(context_BLE.shape[:2])
        raise ConfigError(f"context mask is {given}: give booleans, or counts in int64, {wanted}")


class DiTBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward; time shifts, scales and gates the first and the last."""

    def __init__(self, config: VideoDiTConfig, layer: int):
        super().__init__()
        hidden = config.hidden_dim
        self.self_attn = SelfAttention(config, layer, "self_attn")
        self.cross_attn = CrossAttention(config, layer, "cross_attn")
        self.norm1 = nn.LayerNorm(hidden, eps=config.eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(hidden, eps=config.eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(hidden, eps=config.eps)
        self.ffn = nn.Sequential(nn.Linear(hidden, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, hidden))
        self.ffn_lora_in = lora_for(config.lora, layer, "ffn.0", hidden, config.ffn_dim)
        self.ffn_lora_out = lora_for(config.lora, layer, "ffn.2", config.ffn_dim, hidden)
        self.modulation = nn.Parameter(torch.randn(1, 6, hidden) / math.sqrt(hidden))

    def forward(self, x_BSD: Tensor, inputs: DiTInputs) -> Tensor:
        time, sizes = (self.modulation[:, None] + inputs.t_mod_BT6D).unbind(dim=2), inputs.time_sizes
        shift1, scale1, gate1, shift2, scale2, gate2 = time
        modulated = _modulate(self.norm1(x_BSD), shift1, scale1, sizes)
        skipped = sizes[0] if inputs.later_only else 0
        attended = self.self_attn(modulated, inputs.rope, inputs.self_mask_SS, inputs.self_spans, skipped)
        if skipped:
            x_BSD, sizes = x_BSD[:, skipped:], sizes[1:]
            gate1, shift2, scale2, gate2 = (vector_BTD[:, 1:] for vector_BTD in (gate1, shift2, scale2, gate2))
        x_BSD = _add_gated(x_BSD, attended, gate1, sizes)
        x_BSD = x_BSD + self.cross_attn(self.norm3(x_BSD), inputs.context_BLD, inputs.cross_mask, inputs.by_key)
        fed = self.feed_forward(_modulate(self.norm2(x_BSD), shift2, scale2, sizes))
        return _add_gated(x_BSD, fed, gate2, sizes)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Linear, GELU(tanh), linear, each with its LoRA."""
        first, second = self.ffn[0], self.ffn[2]
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        hidden = F.gelu(apply_linear(first, self.ffn_lora_in, x), approximate="tanh")
        return apply_linear(second, self.ffn_lora_out, hidden)


class Head(nn.Module):
    """Norm, time modulation, and a linear to the latent patch of every token."""

    def __init__(self, config: VideoDiTConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_dim, eps=config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.hidden_dim, config.out_dim * math.prod(config.patch_size))
        self.modulation = nn.Parameter(torch.randn(1, 2, config.hidden_dim) / math.sqrt(config.hidden_dim))

    def forward(self, x_BSD: Tensor, t_BTD: Tensor, time_sizes: tuple[int, ...]) -> Tensor:
        shift, scale = (self.modulation[:, None] + t_BTD[:, :, None]).unbind(dim=2)
        patches: Tensor = self.head(_modulate(self.norm(x_BSD), shift, scale, time_sizes))
        return patches


def _widened(block: nn.Module, tokens: Tensor, inputs: DiTInputs) -> Tensor:
    """The block with all its weights in the type of the tokens."""
    wide = {name: p.to(tokens.dtype) for name, p in block.named_parameters() if p.dtype != tokens.dtype}
    computed: Tensor = functional_call(block, wide, (tokens, inputs))
    return computed


class VideoDiT(nn.Module):
    """Latents, time and context -> tokens -> flow. See `prepare`, `run_blocks`, `predict`."""

    def __init__(self, config: VideoDiTConfig):
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        self.patch_embedding = nn.Conv3d(config.in_dim, hidden, config.patch_size, stride=config.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, hidden), nn.GELU("tanh"), nn.Linear(hidden, hidden)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))
        self.blocks = nn.ModuleList(DiTBlock(config, layer) for layer in range(config.num_layers))
        self.wam_adapters = nn.ModuleDict(
            {str(layer): ResidualAdapter(hidden, config.adapters, config.eps) for layer in config.adapters.layers}
        )
        self.head = Head(config)
        self.checkpointing = False
        """Keep each block's input alone for the backward pass, which computes the block again."""
        self.widening = False
        """Weights of a block in another type than the tokens are converted while it is computed."""

    def prepare(
        self, latents_BCTHW: Tensor, timestep_B: Tensor, context_BLE: Tensor, context_mask_BL: Tensor | None
    ) -> DiTInputs:
        """Embed the latents, the times and the context rows, converted to the weights' type.

        Args:
            latents_BCTHW: H and W multiples of the patch.
            timestep_B: in [0, 1000], one a sample; the first latent frame always uses 0.
            context_BLE: rows of text width.
            context_mask_BL: True where a row may be attended to, or how many equal rows it stands for; None: all once.

        Raises:
            ConfigError: where a shape does not fit.
        """
        self._check(latents_BCTHW, timestep_B, context_BLE, context_mask_BL)
        dtype, mask = self.patch_embedding.weight.dtype, context_mask_BL
        if mask is not None:
            mask = mask[:, None, None, :]
            if mask.dtype != torch.bool:  # n equal scores weigh as much as one that is larger by log(n)
                mask = mask.to(torch.promote_types(dtype, torch.float32)).log()
        return self._embed(latents_BCTHW, timestep_B, self.text_embedding(context_BLE.to(dtype)), mask)

    def prepare_together(
        self, first_BC1HW: Tensor, noisy_BCTHW: Tensor, timestep_B: Tensor, context_BLE: Tensor, context_mask_BL: Tensor
    ) -> tuple[DiTInputs, DiTInputs]:
        """Both passes of a training step as one sequence, first the action pass at time 0; and the video pass alone.

        Arguments as for `prepare`. The blocks compute them with the exact savings of docs/reports/training-step.md.
        """
        action = self.prepare(first_BC1HW, torch.zeros_like(timestep_B), context_BLE, context_mask_BL)
        self._check(noisy_BCTHW, timestep_B, context_BLE, context_mask_BL)
        video = self._embed(noisy_BCTHW, timestep_B, action.context_BLD, action.cross_mask)
        video = replace(video, self_mask_SS=None, by_key=True)
        return one_sequence(action, video), video

    def run_blocks(self, inputs: DiTInputs, last_block: int | None = None, first_block: int = 0) -> DiTOutput:
        """Run the blocks and adapters from `first_block` up to `last_block` (its adapter included), or to the end."""
        tokens = inputs.tokens_BSD
        states: dict[int, LayerState] = {}
        for layer, block in enumerate(self.blocks):
            if layer < first_block:
                continue
            tokens = self._run_block(block, tokens, inputs)
            if str(layer) in self.wam_adapters:
                adapted: Tensor = self.wam_adapters[str(layer)](tokens)
                states[layer] = LayerState(backbone=tokens, adapted=adapted)
                tokens = adapted
            if layer == last_block:
                break
        return DiTOutput(tokens, states)

    def predict_later(self, tokens_BSD: Tensor, inputs: DiTInputs, first_block: int) -> Tensor:
        """The flow of all latents but the first, [B, C, T - 1, H, W], of the tokens before block `first_block`.

        From there on no block has an adapter. The last block computes nothing of the first frame but keys and values.
        """
        last, (frames, rows, columns) = len(self.blocks) - 1, inputs.grid
        inputs = replace(inputs, tokens_BSD=tokens_BSD)
        if frames == 1:
            return self.predict(self.run_blocks(inputs, first_block=first_block).tokens_BSD, inputs)[:, :, 1:]
        if first_block < last:
            tokens_BSD = self.run_blocks(inputs, last - 1, first_block).tokens_BSD
        if first_block <= last:
            tokens_BSD = self._run_block(self.blocks[last], tokens_BSD, replace(inputs, later_only=True))
        else:
            tokens_BSD = tokens_BSD[:, inputs.time_sizes[0] :]
        later = replace(
            inputs, t_BTD=inputs.t_BTD[:, 1:], time_sizes=inputs.time_sizes[1:], grid=(frames - 1, rows, columns)
        )
        return self.predict(tokens_BSD, later)

    def _run_block(self, block: nn.Module, tokens_BSD: Tensor, inputs: DiTInputs) -> Tensor:
        compute = partial(_widened, block) if self.widening else block
        if self.checkpointing and torch.is_grad_enabled():
            computed: Tensor = checkpoint(compute, tokens_BSD, inputs, use_reentrant=False)
        else:
            computed = compute(tokens_BSD, inputs)
        return computed

    def predict(self, tokens_BSD: Tensor, inputs: DiTInputs) -> Tensor:
        """Head and unpatchify: tokens after the last block -> [B, C, T, H, W]."""
        (frames, rows, columns), (_, patch_h, patch_w) = inputs.grid, self.config.patch_size
        patches: Tensor = self.head(tokens_BSD, inputs.t_BTD, inputs.time_sizes)
        pixels = patches.reshape(-1, frames, rows, columns, patch_h, patch_w, self.config.out_dim)
        return pixels.permute(0, 6, 1, 2, 4, 3, 5).reshape(
            -1, self.config.out_dim, frames, rows * patch_h, columns * patch_w
        )

    def _embed(
        self, latents_BCTHW: Tensor, timestep_B: Tensor, context_BLD: Tensor, cross_mask: Tensor | None
    ) -> DiTInputs:
        """`prepare` over a context that is embedded already."""
        patches: Tensor = self.patch_embedding(latents_BCTHW.to(self.patch_embedding.weight.dtype))
        frames, rows, columns = patches.shape[2:]
        first, tokens = rows * columns, frames * rows * columns
        sizes = (first,) if frames == 1 else (first, tokens - first)
        t_BTD, t_mod_BT6D = self._embed_time(timestep_B, sizes)
        return DiTInputs(
            tokens_BSD=patches.flatten(2).transpose(1, 2),
            t_BTD=t_BTD,
            t_mod_BT6D=t_mod_BT6D,
            time_sizes=sizes,
            context_BLD=context_BLD,
            rope=rope_table((frames, rows, columns), self.config.head_dim, self.config.rope_theta, patches.device),
            grid=(frames, rows, columns),
            self_mask_SS=video_mask(self.config.attention_mask, frames, first, patches.device),
            self_spans=video_spans(self.config.attention_mask, frames, first),
            cross_mask=cross_mask,
        )

    def _embed_time(self, timestep_B: Tensor, time_sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """t [B, T, D] and its six modulation vectors [B, T, 6, D] of time 0 and, where T is 2, the sample's time."""
        times = torch.stack((torch.zeros_like(timestep_B), timestep_B), dim=1)[:, : len(time_sizes)]
        embedded = sinusoidal_embedding(times.flatten(), self.config.freq_dim).to(self.patch_embedding.weight.dtype)
        t: Tensor = self.time_embedding(embedded).reshape(*times.shape, -1)
        t_mod: Tensor = self.time_projection(t).reshape(*times.shape, 6, -1)
        return t, t_mod

    def _check(self, latents: Tensor, timestep: Tensor, context: Tensor, mask: Tensor | None) -> None:
        config, (_, patch_h, patch_w) = self.config, self.config.patch_size
        if (
            latents.ndim != 5
            or latents.shape[1] != config.in_dim
            or latents.shape[3] % patch_h
            or latents.shape[4] % patch_w
        ):
            raise ConfigError(
                f"latents have shape {tuple(latents.shape)}: give [B, {config.in_dim}, T, h, w] with h, w multiples of "
                f"{(patch_h, patch_w)}"
            )
        batch = latents.shape[0]
        if timestep.shape != (batch,):
            raise ConfigError(f"timestep has shape {tuple(timestep.shape)}: give [{batch}], one a sample")
        check_context(context, mask, config.text_dim)
        if context.shape[0] != batch:
            raise ConfigError(f"context has {context.shape[0]} samples and the latents {batch}: give as many")
