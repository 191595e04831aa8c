# SPDX-License-Identifier: Apache-2.0
"""The video diffusion transformer (Wan2.1 architecture) with per-frame time, LoRA and residual adapters.

Shapes: B batch, C latent channels, T latent frames, S = T * N tokens, D hidden width, L context rows.
Source: Light-WAM (arXiv 2606.08242), backbone of Wan2.1-T2V-1.3B. Parameter names are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import AttentionMask, VideoDiTConfig
from lightwam.errors import ConfigError
from lightwam.model.adapters import ResidualAdapter
from lightwam.model.attention import CrossAttention, QuerySpan, SelfAttention
from lightwam.model.lora import apply_linear, lora_for
from lightwam.model.rope import RotaryTable, rope_table


@dataclass
class DiTInputs:
    """Everything the blocks read: one forward pass's tokens, times, context and masks."""

    tokens_BSD: Tensor
    t_BTD: Tensor
    t_mod_BT6D: Tensor
    context_BLD: Tensor
    rope: RotaryTable
    grid: tuple[int, int, int]
    self_mask_SS: Tensor | None
    self_spans: tuple[QuerySpan, ...]
    cross_mask: Tensor | None


@dataclass
class LayerState:
    """Tokens [B, S, D] around one adapter: `backbone` is h, `adapted` is h'."""

    backbone: Tensor
    adapted: Tensor


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
        return (QuerySpan(0, tokens, tokens),)
    if kind == "first_frame_causal":
        return (QuerySpan(0, first, first), QuerySpan(first, tokens, tokens))
    return tuple(QuerySpan(frame * first, (frame + 1) * first, (frame + 1) * first) for frame in range(frames))


def _modulate(x_BSD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
    frames = shift_BTD.shape[1]
    by_frame = x_BSD.reshape(x_BSD.shape[0], frames, -1, x_BSD.shape[-1])
    return (by_frame * (1 + scale_BTD[:, :, None]) + shift_BTD[:, :, None]).reshape(x_BSD.shape)


def _gate(x_BSD: Tensor, gate_BTD: Tensor) -> Tensor:
    by_frame = x_BSD.reshape(x_BSD.shape[0], gate_BTD.shape[1], -1, x_BSD.shape[-1])
    return (by_frame * gate_BTD[:, :, None]).reshape(x_BSD.shape)


def check_context(context_BLE: Tensor, mask_BL: Tensor | None, text_dim: int) -> None:
    """Raise `ConfigError` unless the rows are [B, L, text_dim] and the mask, if any, is boolean [B, L]."""
    if context_BLE.ndim != 3 or context_BLE.shape[2] != text_dim:
        raise ConfigError(f"context has shape {tuple(context_BLE.shape)}: give [B, L, {text_dim}]")
    if mask_BL is not None and (mask_BL.shape != context_BLE.shape[:2] or mask_BL.dtype != torch.bool):
        given, wanted = f"{mask_BL.dtype} {tuple(mask_BL.shape)}", tuple(context_BLE.shape[:2])
        raise ConfigError(f"context mask is {given}: give booleans {wanted}")


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
        time = (self.modulation[:, None] + inputs.t_mod_BT6D).unbind(dim=2)
        shift1, scale1, gate1, shift2, scale2, gate2 = time
        modulated = _modulate(self.norm1(x_BSD), shift1, scale1)
        attended = self.self_attn(modulated, inputs.rope, inputs.self_mask_SS, inputs.self_spans)
        x_BSD = x_BSD + _gate(attended, gate1)
        x_BSD = x_BSD + self.cross_attn(self.norm3(x_BSD), inputs.context_BLD, inputs.cross_mask)
        return x_BSD + _gate(self.feed_forward(_modulate(self.norm2(x_BSD), shift2, scale2)), gate2)

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

    def forward(self, x_BSD: Tensor, t_BTD: Tensor) -> Tensor:
        shift, scale = (self.modulation[:, None] + t_BTD[:, :, None]).unbind(dim=2)
        patches: Tensor = self.head(_modulate(self.norm(x_BSD), shift, scale))
        return patches


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

    def prepare(
        self, latents_BCTHW: Tensor, timestep_B: Tensor, context_BLE: Tensor, context_mask_BL: Tensor | None
    ) -> DiTInputs:
        """Embed the latents, the times and the context rows, converted to the weights' type.

        Args:
            latents_BCTHW: H and W multiples of the patch.
            timestep_B: in [0, 1000], one a sample; the first latent frame always uses 0.
            context_BLE: rows of text width.
            context_mask_BL: True where a row may be attended to; None: all of them.

        Raises:
            ConfigError: where a shape does not fit.
        """
        self._check(latents_BCTHW, timestep_B, context_BLE, context_mask_BL)
        dtype = self.patch_embedding.weight.dtype
        patches: Tensor = self.patch_embedding(latents_BCTHW.to(dtype))
        frames, rows, columns = patches.shape[2:]
        t_BTD, t_mod_BT6D = self._embed_time(timestep_B, frames)
        mask = None if context_mask_BL is None else context_mask_BL[:, None, None, :]
        return DiTInputs(
            tokens_BSD=patches.flatten(2).transpose(1, 2),
            t_BTD=t_BTD,
            t_mod_BT6D=t_mod_BT6D,
            context_BLD=self.text_embedding(context_BLE.to(dtype)),
            rope=rope_table((frames, rows, columns), self.config.head_dim, self.config.rope_theta, patches.device),
            grid=(frames, rows, columns),
            self_mask_SS=video_mask(self.config.attention_mask, frames, rows * columns, patches.device),
            self_spans=video_spans(self.config.attention_mask, frames, rows * columns),
            cross_mask=mask,
        )

    def run_blocks(self, inputs: DiTInputs, last_block: int | None = None) -> DiTOutput:
        """Run the blocks and adapters up to `last_block` (its adapter included), or all of them."""
        tokens = inputs.tokens_BSD
        states: dict[int, LayerState] = {}
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, inputs)
            if str(layer) in self.wam_adapters:
                adapted: Tensor = self.wam_adapters[str(layer)](tokens)
                states[layer] = LayerState(backbone=tokens, adapted=adapted)
                tokens = adapted
            if layer == last_block:
                break
        return DiTOutput(tokens, states)

    def predict(self, tokens_BSD: Tensor, inputs: DiTInputs) -> Tensor:
        """Head and unpatchify: tokens after the last block -> [B, C, T, H, W]."""
        (frames, rows, columns), (_, patch_h, patch_w) = inputs.grid, self.config.patch_size
        patches: Tensor = self.head(tokens_BSD, inputs.t_BTD)
        pixels = patches.reshape(-1, frames, rows, columns, patch_h, patch_w, self.config.out_dim)
        return pixels.permute(0, 6, 1, 2, 4, 3, 5).reshape(
            -1, self.config.out_dim, frames, rows * patch_h, columns * patch_w
        )

    def _embed_time(self, timestep_B: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """t [B, T, D] and its six modulation vectors [B, T, 6, D]; two distinct times a sample are embedded once."""
        times = torch.stack((torch.zeros_like(timestep_B), timestep_B), dim=1)[:, : min(frames, 2)]
        weight = self.patch_embedding.weight
        embedded = sinusoidal_embedding(times.flatten(), self.config.freq_dim).to(weight.dtype)
        t: Tensor = self.time_embedding(embedded).reshape(*times.shape, -1)
        t_mod: Tensor = self.time_projection(t).reshape(*times.shape, 6, -1)
        if frames > 2:
            frame = torch.ones(frames, dtype=torch.long, device=weight.device)
            frame[0] = 0
            t, t_mod = t[:, frame], t_mod[:, frame]
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
