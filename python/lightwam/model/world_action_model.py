# SPDX-License-Identifier: Apache-2.0
"""The policy: one video DiT read in two passes, an action expert, and a proprioception encoder.

Shapes: B batch, C latent channels, T latent frames, h w latent size, L context rows, E text width, P state width,
H action horizon, A action width. Source: Light-WAM (arXiv 2606.08242).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import FeatureSource, LightWAMConfig
from lightwam.errors import ConfigError, DataError
from lightwam.model.action_expert import ExpertOutput, PoolerAttention, StateFusionActionExpert
from lightwam.model.attention import AttentionLayer, AttentionMethod
from lightwam.model.context import merge_equal_rows
from lightwam.model.dit import LayerState, VideoDiT, check_context
from lightwam.model.fit import load_exactly
from lightwam.model.flow_matching import FlowMatching
from lightwam.model.lora import LoRA
from lightwam.model.losses import action_loss, flow_loss, latent_padding
from lightwam.model.names import flatten_published

log = logging.getLogger(__name__)

BATCH_KEYS = ("video_latents", "action", "proprio", "context", "context_mask")
"""What every training batch holds; see `LightWAM.training_losses`."""


@dataclass(frozen=True)
class _NoisedWindow:
    """What the video pass sees, [B, C, T, h', w'] at times [B], what it must predict, and which latents are padding."""

    noisy: Tensor
    timestep: Tensor
    target: Tensor
    latent_pad: Tensor | None


class _Mixtures(nn.Module):
    """The published `mot.mixtures` level, which holds the video DiT alone."""

    def __init__(self, video: VideoDiT):
        super().__init__()
        self.mixtures = nn.ModuleDict({"video": video})


class LightWAM(nn.Module):
    """The world action model of one configuration; see the module's docstring for the shapes.

    Parameters that the configuration does not train are frozen (`requires_grad` false): the backbone, unless
    `video_dit.train_backbone`.
    """

    def __init__(self, config: LightWAMConfig):
        super().__init__()
        self.config = config
        dit, layers = VideoDiT(config.video_dit), len(config.video_dit.adapters.layers)
        self.mot = _Mixtures(dit)
        self.state_fusion_action_expert = StateFusionActionExpert(
            config.action_expert, config.video_dit.hidden_dim, layers, config.action_dim
        )
        self.proprio_encoder = nn.Linear(config.state_dim, config.video_dit.text_dim)
        self.flow_matching = FlowMatching(config.flow_matching)
        if not config.video_dit.train_backbone:
            self._freeze_backbone()

    @property
    def video_dit(self) -> VideoDiT:
        """The backbone with its adapters and head."""
        video = self.mot.mixtures["video"]
        assert isinstance(video, VideoDiT)
        return video

    def set_attention(self, method: AttentionMethod) -> LightWAM:
        """How every attention layer computes (see `AttentionMethod`); logged. Raises `ConfigError` on another one."""
        if method not in get_args(AttentionMethod):
            raise ConfigError(f"attention method is {method!r}: use 'sdpa', 'softmax' or 'kernels'")
        log.info("attention: %s", "kernels (Triton on CUDA, PyTorch elsewhere)" if method == "kernels" else method)
        for module in self.modules():
            if isinstance(module, AttentionLayer):
                module.method = method
        return self

    def load_published(self, state_dict: Mapping[str, Any]) -> LightWAM:
        """Load a whole policy, the frozen backbone included.

        Args:
            state_dict: either flat (`mot.mixtures.video...`, `state_fusion_action_expert...`, `proprio_encoder...`) or
                the nested dict of a released file: one state dict for each of those three names, beside `step` and
                `torch_dtype`. Converted to the model's own type and device.

        Raises:
            CheckpointError: where keys are missing, unknown, of another shape, or no tensors; names them.
        """
        load_exactly(self, flatten_published(state_dict), "checkpoint")
        return self

    # The action pass -------------------------------------------------------------------------------------------------

    def predict_actions(self, latents: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor) -> Tensor:
        """One chunk of normalised actions. This is the unfolded reference: every block runs, as published.

        Args:
            latents: [B, C, 1, h, w], the VAE latent of the current canvas.
            context: [B, L, E], the instruction's rows.
            context_mask: boolean [B, L], True where a row may be attended to; None: all of them.
            proprio: [B, P], normalised.

        Returns:
            [B, H, A].

        Raises:
            ConfigError: where a shape does not fit.
        """
        states = self._action_states(latents, context, context_mask, proprio, self.config.video_dit.num_layers - 1)
        actions: Tensor = self.state_fusion_action_expert(states, self.config.horizon).actions_BHA
        return actions

    def action_features(
        self, latents: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor
    ) -> ExpertOutput:
        """As `predict_actions`, with the pooled features of every fusion layer; stops after the last adapter."""
        last_adapter = self.config.video_dit.adapters.layers[-1]
        states = self._action_states(latents, context, context_mask, proprio, last_adapter)
        output: ExpertOutput = self.state_fusion_action_expert(states, self.config.horizon)
        return output

    def pooler_attention(
        self, latents: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor
    ) -> dict[int, dict[FeatureSource, PoolerAttention]]:
        """Where each learned-query pooler looks, by adapter block and source; S runs over the token grid row by row.

        Raises:
            ConfigError: where pooling is the mean.
        """
        expert, layers = self.state_fusion_action_expert, self.config.video_dit.adapters.layers
        states = self._action_states(latents, context, context_mask, proprio, layers[-1])
        return {
            layers[i]: {
                source: expert.pooler(i, source).attention_summary(tokens)
                for source, tokens in expert.source_tokens(i, state).items()
            }
            for i, state in enumerate(states)
        }

    def _action_states(
        self, latents: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor, last_block: int
    ) -> list[LayerState]:
        """The adapter layers' states of the first frame at time 0."""
        if latents.ndim != 5 or latents.shape[2] != 1:
            raise ConfigError(f"latents have shape {tuple(latents.shape)}: the action pass takes [B, C, 1, h, w]")
        if self.config.video.downsample_action_pass:
            latents = self.downsample(latents)
        context, context_mask = self.append_proprio(context, context_mask, proprio)
        timestep = torch.zeros(latents.shape[0], device=latents.device)
        inputs = self.video_dit.prepare(latents, timestep, context, context_mask)
        states = self.video_dit.run_blocks(inputs, last_block).states
        return [states[layer] for layer in self.config.video_dit.adapters.layers]

    # The video pass --------------------------------------------------------------------------------------------------

    def predict_flow(
        self, noisy_latents: Tensor, timestep: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor
    ) -> Tensor:
        """The flow (noise - data) of latents at full resolution.

        The DiT sees them down-sampled by the configuration's factor; its flow is brought back to full resolution.

        Args:
            noisy_latents: [B, C, T, h, w]; the first latent is clean, the others carry the noise of `timestep`.
            timestep: [B] in [0, 1000].
            context, context_mask, proprio: as for `predict_actions`.

        Returns:
            [B, C, T, h, w].
        """
        flow = self.predict_flow_lowres(self.downsample(noisy_latents), timestep, context, context_mask, proprio)
        if flow.shape == noisy_latents.shape:
            return flow
        return F.interpolate(flow, size=noisy_latents.shape[2:], mode="trilinear", align_corners=False)

    def predict_flow_lowres(
        self, noisy_latents: Tensor, timestep: Tensor, context: Tensor, context_mask: Tensor | None, proprio: Tensor
    ) -> Tensor:
        """The flow of latents that are at the DiT's own resolution (already down-sampled): what training learns."""
        context, context_mask = self.append_proprio(context, context_mask, proprio)
        inputs = self.video_dit.prepare(noisy_latents, timestep, context, context_mask)
        return self.video_dit.predict(self.video_dit.run_blocks(inputs).tokens_BSD, inputs)

    def downsample(self, latents: Tensor) -> Tensor:
        """Average-pool latents in space by the configuration's factor."""
        factor = self.config.video.spatial_downsample
        if factor == 1:
            return latents
        if latents.shape[-2] % factor or latents.shape[-1] % factor:
            raise ConfigError(
                f"latents have shape {tuple(latents.shape)}: height and width must be multiples of {factor}"
            )
        pooled = F.avg_pool2d(latents.flatten(1, 2), factor)  # avg_pool3d knows no bfloat16 on a CPU
        return pooled.unflatten(1, latents.shape[1:3])  # type: ignore[no-any-return, no-untyped-call]

    def append_proprio(
        self, context: Tensor, context_mask: Tensor | None, proprio: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Append the proprioception row to the context [B, L, E] -> [B, L + 1, E], always attended to."""
        check_context(context, context_mask, self.config.video_dit.text_dim)
        batch, width = context.shape[0], self.config.state_dim
        if proprio.shape != (batch, width):
            raise ConfigError(f"proprio has shape {tuple(proprio.shape)}: give [{batch}, {width}]")
        row = self.proprio_encoder(proprio.to(self.proprio_encoder.weight.dtype))
        context = torch.cat((context, row[:, None].to(context.dtype)), dim=1)
        if context_mask is not None:
            context_mask = F.pad(context_mask, (0, 1), value=True)
        return context, context_mask

    @torch.no_grad()
    def sample_video(
        self,
        first_latent: Tensor,
        context: Tensor,
        context_mask: Tensor | None,
        proprio: Tensor,
        *,
        num_steps: int | None = None,
        noise: Tensor | None = None,
        full_resolution: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Imagine the future: Euler steps from noise to latents, the first latent held at what the camera saw.

        Args:
            first_latent: [B, C, 1, h, w] at full resolution.
            context, context_mask, proprio: as for `predict_actions`.
            num_steps: Euler steps; the configuration's number if None.
            noise: start values [B, C, T, ...] at the resolution sampled at; drawn if None.
            full_resolution: sample at full resolution (flow by `predict_flow`) instead of the down-sampled one that the
                DiT was trained at.
            generator: source of the drawn noise.

        Returns:
            Normalised latents [B, C, T, h, w], h and w down-sampled unless `full_resolution`.
        """
        first = first_latent if full_resolution else self.downsample(first_latent)
        if noise is None:
            frames = 1 + (self.config.video.num_frames - 1) // self.config.vae.temporal_factor
            shape = (*first.shape[:2], frames, *first.shape[3:])
            noise = torch.randn(shape, device=first.device, dtype=first.dtype, generator=generator)
        if noise.shape[:2] != first.shape[:2] or noise.shape[3:] != first.shape[3:]:
            raise ConfigError(
                f"noise has shape {tuple(noise.shape)}: give [B, C, T, h, w] that fits {tuple(first.shape)}"
            )
        predict = self.predict_flow if full_resolution else self.predict_flow_lowres
        steps = num_steps or self.config.flow_matching.num_sampling_steps
        latents = torch.cat((first, noise[:, :, 1:]), dim=2)
        for timestep, delta in zip(*self.flow_matching.sampling_schedule(steps, first.device), strict=True):
            flow = predict(latents, timestep.expand(len(first)), context, context_mask, proprio)
            latents = torch.cat((first, self.flow_matching.step(latents, flow, delta)[:, :, 1:]), dim=2)
        return latents

    # Training --------------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        batch: Mapping[str, Tensor],
        noise: Tensor | None = None,
        timestep: Tensor | None = None,
        *,
        exact_savings: bool = True,
    ) -> dict[str, Tensor]:
        """Both losses of a batch of windows, each times its lambda, and their sum.

        Args:
            batch: `video_latents` [B, C, T, h, w] at full resolution; `action` [B, H, A] and `proprio` [B, P] or
                [B, steps, P] (its first step counts), normalised; `context` [B, L, E]; `context_mask` [B, L], booleans,
                or counts of equal rows (`lightwam.model.context.merge_equal_rows`);
                optionally `image_is_pad` [B, F] over the video's frames and `action_is_pad` [B, H], booleans.
            noise: [B, C, T, h', w'] at the down-sampled resolution; drawn if None.
            timestep: [B] in [0, 1000]; drawn if None.
            exact_savings: compute both passes as one sequence, with fewer FLOPs and the same losses and gradients up to
                rounding (docs/reports/training-step.md); False: one pass after the other, as they are defined. LoRA
                dropout in training draws another mask for every row and pass, so with it this is always False.

        Returns:
            `loss` = `loss_video` + `loss_action`.

        Raises:
            DataError: where the batch lacks a key or a shape does not fit.
        """
        lora = self.config.video_dit.lora
        draws_masks = self.video_dit.training and lora is not None and lora.dropout > 0
        if exact_savings and not draws_masks:
            loss_video, loss_action = self._losses_together(batch, noise, timestep)
        else:
            loss_video, loss_action = self.video_loss(batch, noise, timestep), self.action_loss(batch)[0]
        loss_video = self.config.loss.lambda_video * loss_video
        loss_action = self.config.loss.lambda_action * loss_action
        return {"loss": loss_video + loss_action, "loss_video": loss_video, "loss_action": loss_action}

    def video_loss(
        self, batch: Mapping[str, Tensor], noise: Tensor | None = None, timestep: Tensor | None = None
    ) -> Tensor:
        """The flow-matching loss alone, without its lambda; arguments as for `training_losses`."""
        context, mask, proprio = self._batch_context(batch)
        window = self._noised_window(batch, noise, timestep)
        flow = self.predict_flow_lowres(window.noisy, window.timestep, context, mask, proprio)
        return self._flow_loss(flow, window)

    def action_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ExpertOutput]:
        """The action loss alone, without its lambda, and what the expert computed (pooled features included)."""
        context, mask, proprio = self._batch_context(batch)
        self._check_actions(batch, len(proprio))
        output = self.action_features(batch["video_latents"][:, :, :1], context, mask, proprio)
        return self._action_loss(output.actions_BHA, batch), output

    def _losses_together(
        self, batch: Mapping[str, Tensor], noise: Tensor | None, timestep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`video_loss` and `action_loss` of one run through the blocks; the action pass ends at the last adapter."""
        context, mask, proprio = self._batch_context(batch)
        self._check_actions(batch, len(proprio))
        window = self._noised_window(batch, noise, timestep)
        context, counts = self.append_proprio(*merge_equal_rows(context, mask), proprio)
        assert counts is not None
        first = batch["video_latents"][:, :, :1]
        if self.config.video.downsample_action_pass:
            first = self.downsample(first)
        dit, layers = self.video_dit, self.config.video_dit.adapters.layers
        both, video = dit.prepare_together(first, window.noisy, window.timestep, context, counts)
        shared = dit.run_blocks(both, last_block=layers[-1])
        tokens = both.tokens_BSD.shape[1] - video.tokens_BSD.shape[1]  # of the action pass
        flow = dit.predict_later(shared.tokens_BSD[:, tokens:], video, layers[-1] + 1)
        flow = F.pad(flow, (0, 0, 0, 0, 1, 0))  # the first latent is not learned
        states = [shared.states[layer].of_tokens(tokens) for layer in layers]
        steps = self.config.loss.supervised_steps(self.config.horizon)
        actions = self.state_fusion_action_expert(states, steps, fold=True).actions_BHA
        return self._flow_loss(flow, window), self._action_loss(actions, batch)

    def _noised_window(
        self, batch: Mapping[str, Tensor], noise: Tensor | None, timestep: Tensor | None
    ) -> _NoisedWindow:
        """The video pass's latents with their noise, and what it must learn."""
        latents = self.downsample(batch["video_latents"])
        latent_pad = None
        if "image_is_pad" in batch:
            latent_pad = latent_padding(batch["image_is_pad"], self.config.vae.temporal_factor)
            if latent_pad.shape != (len(latents), latents.shape[2] - 1):
                marked, given = tuple(latent_pad.shape), tuple(latents.shape)
                raise DataError(f"image_is_pad marks {marked} later latents: video_latents has shape {given}")
        if noise is None:
            noise = torch.randn_like(latents)
        if noise.shape != latents.shape:
            raise DataError(f"noise has shape {tuple(noise.shape)}: give {tuple(latents.shape)}")
        if timestep is None:
            timestep = self.flow_matching.sample_timesteps(len(latents), latents.device)
        noisy = self.flow_matching.add_noise(latents, noise, timestep)
        noisy = torch.cat((latents[:, :, :1], noisy[:, :, 1:]), dim=2)
        return _NoisedWindow(noisy, timestep, self.flow_matching.target(latents, noise), latent_pad)

    def _flow_loss(self, flow: Tensor, window: _NoisedWindow) -> Tensor:
        return flow_loss(flow, window.target, self.flow_matching.training_weight(window.timestep), window.latent_pad)

    def _check_actions(self, batch: Mapping[str, Tensor], samples: int) -> None:
        action, pad = batch["action"], batch.get("action_is_pad")
        expected = (samples, self.config.horizon, self.config.action_dim)
        if action.shape != expected:
            raise DataError(f"batch action has shape {tuple(action.shape)}: give {expected}")
        if pad is not None and (pad.shape != expected[:2] or pad.dtype != torch.bool):
            raise DataError(f"action_is_pad is {pad.dtype} {tuple(pad.shape)}: give booleans {expected[:2]}")

    def _action_loss(self, actions_BHA: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Of the first steps of a chunk, or of all of it."""
        steps, pad = actions_BHA.shape[1], batch.get("action_is_pad")
        pad = None if pad is None else pad[:, :steps]
        return action_loss(actions_BHA, batch["action"][:, :steps], pad, self.config.loss.temporal_weighting)

    def _batch_context(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        missing = [key for key in BATCH_KEYS if key not in batch]
        if missing:
            raise DataError(f"batch lacks {missing}: give {list(BATCH_KEYS)}")
        proprio = batch["proprio"]
        return batch["context"], batch["context_mask"], proprio[:, 0] if proprio.ndim == 3 else proprio

    def _freeze_backbone(self) -> None:
        """Train only LoRA, adapters and head of the DiT."""
        dit = self.video_dit
        dit.requires_grad_(False)
        for module in (dit.head, dit.wam_adapters, *(m for m in dit.modules() if isinstance(m, LoRA))):
            module.requires_grad_(True)
