# SPDX-License-Identifier: Apache-2.0
"""The peer of the latency benchmarks: the unfolded policy in PyTorch, from camera pixels to actions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightwam.config import LightWAMConfig
from lightwam.data.images import join_cameras, scale_pixels
from lightwam.export.weights import VAE, RandomWeights
from lightwam.model import LightWAM
from lightwam.model.vae import WanVAE


class EagerPolicy:
    """Every block, the whole VAE encoder, text keys and values anew on each call, as the published code does.

    config: the policy. dtype: of all weights and activations (the published code runs in bf16). seed: of the random
    weights, the same numbers as `lightwam export --random` folds. context: rows [n, text width] of the instruction; the
    rows after them are zero and are attended to. `seconds` holds the stages of the last call (on a
    `device` that is a GPU, only the time of asking: whoever reads the actions waits for it).
    """

    def __init__(
        self,
        config: LightWAMConfig,
        dtype: torch.dtype,
        context: NDArray[np.float32] | None = None,
        seed: int = 0,
        device: str = "cpu",
    ):
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                self.model, self.vae = LightWAM(config).eval(), WanVAE(config.vae).eval()
        finally:
            torch.set_default_dtype(previous)
        del self.vae.model.decoder  # no action needs it
        weights = RandomWeights(seed)
        _fill(self.model, weights, "")
        _fill(self.vae, weights, VAE.removesuffix("model."))
        if context is None:
            context = np.random.default_rng(seed).standard_normal((20, config.text.width)).astype(np.float32)
        rows = torch.zeros(1, config.text.length, config.text.width)
        rows[0, : len(context)] = torch.as_tensor(context)
        self.context = rows.to(self.device, dtype)
        self.mask = torch.ones(1, config.text.length, dtype=torch.bool, device=self.device)
        self.encode, self.predict = self.vae.encode, self.model.predict_actions
        self.seconds: dict[str, float] = {}
        self._expert_began = 0.0

    def compile(self, freeze: bool) -> None:
        """Let torch.compile have the VAE and the rest; the next call is slow. `freeze`: pack a copy of the weights."""
        import torch._inductor.config as inductor

        inductor.freezing = freeze
        self.encode, self.predict = torch.compile(self.encode), torch.compile(self.predict)

    def time_expert(self) -> None:
        """Tell the expert's time from the backbone's (not in a compiled model, which is one piece)."""
        expert = self.model.state_fusion_action_expert

        def begin(*_: Any) -> None:
            self._expert_began = time.perf_counter()

        def end(*_: Any) -> None:
            self.seconds["expert"] = time.perf_counter() - self._expert_began

        expert.register_forward_pre_hook(begin)
        expert.register_forward_hook(end)

    @torch.inference_mode()
    def infer(self, observation: Mapping[str, Any]) -> torch.Tensor:
        """Normalised actions float32 [H, A] of an observation as `lightwam.runtime.Policy.infer` takes it."""
        began = time.perf_counter()
        images = {name: image[None] for name, image in observation["images"].items()}
        canvas = scale_pixels(join_cameras(images, self.config.cameras))
        ready = time.perf_counter()
        latents = self.encode(canvas.reshape(1, 3, 1, *canvas.shape[-2:]).to(self.device, self.dtype))
        encoded = time.perf_counter()
        clamp = self.config.robot.normalization.clamp
        state = torch.as_tensor(observation["state"])[None].clamp(-clamp, clamp).to(self.device, self.dtype)
        self.seconds = {"preprocess": ready - began, "vae": encoded - ready}
        actions: torch.Tensor = self.predict(latents, self.context, self.mask, state)[0].float()
        self.seconds["backbone"] = time.perf_counter() - encoded - self.seconds.get("expert", 0.0)
        return actions


@torch.no_grad()
def _fill(module: torch.nn.Module, weights: RandomWeights, prefix: str) -> None:
    """One tensor after the other, so that no second copy of the weights is made."""
    for name, parameter in module.state_dict().items():
        parameter.copy_(weights.get(prefix + name, tuple(parameter.shape)))
