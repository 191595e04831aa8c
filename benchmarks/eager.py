# SPDX-License-Identifier: Apache-2.0
"""The peer of the latency benchmarks: the unfolded policy in eager PyTorch, from camera pixels to actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightwam.config import LightWAMConfig
from lightwam.data.images import join_cameras, scale_pixels
from lightwam.model import LightWAM
from lightwam.model.vae import WanVAE


class EagerPolicy:
    """Random weights; every block, the whole VAE encoder, text keys and values anew on each call.

    config: the policy. dtype: of all weights and activations (the published code runs in bf16).
    """

    def __init__(self, config: LightWAMConfig, dtype: torch.dtype):
        self.config, self.dtype = config, dtype
        torch.manual_seed(0)
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            self.model, self.vae = LightWAM(config).eval(), WanVAE(config.vae).eval()
        finally:
            torch.set_default_dtype(previous)
        rows = torch.randn(1, config.text.length, config.text.width)
        rows[:, 20:] = 0.0  # as published: the rows after the text are zero and are attended to
        self.context = rows.to(dtype)
        self.mask = torch.ones(1, config.text.length, dtype=torch.bool)

    @torch.inference_mode()
    def infer(self, observation: Mapping[str, Any]) -> torch.Tensor:
        """Normalised actions float32 [H, A] of an observation as `lightwam.runtime.Policy.infer` takes it."""
        images = {name: image[None] for name, image in observation["images"].items()}
        canvas = scale_pixels(join_cameras(images, self.config.cameras))
        latents = self.vae.encode(canvas.reshape(1, 3, 1, *canvas.shape[-2:]).to(self.dtype))
        state = torch.as_tensor(observation["state"])[None].to(self.dtype)
        return self.model.predict_actions(latents, self.context, self.mask, state)[0].float()
