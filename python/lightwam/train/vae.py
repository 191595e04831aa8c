# SPDX-License-Identifier: Apache-2.0
"""The trainer of a policy's small VAE, on recorded frames and short clips.

After training, the latents' mean and deviation are measured and stored in the configuration.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightwam.config import LightWAMConfig, read_config
from lightwam.model.checkpoint_folder import save_checkpoint
from lightwam.model.vae import WanVAE
from lightwam.train.device import use_device
from lightwam.train.options import VAETrainArgs
from lightwam.train.run import TrainingRun
from lightwam.train.vae_data import FrameSource
from lightwam.train.vae_losses import Localiser, vae_losses, validate
from lightwam.train.vae_path import encode_moments


class VAETrainer(TrainingRun):
    """Trains the VAE, and beside it the temporary head that locates objects."""

    args: VAETrainArgs
    label = "train VAE"

    def __init__(self, args: VAETrainArgs) -> None:
        device = use_device(args.machine.device)
        self.config = config = read_config(args.inputs.config)
        torch.manual_seed(args.schedule.seed)
        self.source = FrameSource(args.inputs, config, device, args.saving.held_out, args.schedule.seed)
        self.vae = WanVAE(config.vae)
        initialise(self.vae)
        outputs = self.source.located.shape[1]
        self.localiser = Localiser(config.vae.z_dim, config.latent_size, outputs) if outputs else None
        networks = nn.ModuleList([self.vae, *([self.localiser] if self.localiser else [])])
        super().__init__(args, device, networks.to(device))

    def losses(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of frames, or in every so many steps of clips, which are not reported."""
        schedule, source = self.args.schedule, self.source
        is_clip = schedule.clip_every > 0 and self.step % schedule.clip_every == schedule.clip_every - 1
        rows = rng.choice(source.training, schedule.clip_batch if is_clip else schedule.batch)
        video, located = source.clips(rows) if is_clip else source.images(rows)
        columns = _camera_columns(self.config, int(rng.integers(1000)))
        losses = vae_losses(self.vae, self.localiser, video, located, source.mean_image, self.args.losses, columns)
        return losses["loss"], {} if is_clip else losses

    def validate(self) -> dict[str, float]:
        """Held-out PSNR and localisation error."""
        return validate(self.vae, self.localiser, self.source)

    def save_checkpoint(self, folder: Path) -> None:
        """The VAE, and in its configuration the measured statistics of its latents."""
        mean, std = measure_latents(self.vae, self.source)
        vae_config = dataclasses.replace(self.config.vae, latent_mean=mean, latent_std=std)
        weights = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        save_checkpoint(folder, dataclasses.replace(self.config, vae=vae_config), weights)


def initialise(vae: WanVAE) -> None:
    """Variance-preserving weights; the second convolution of a residual block starts small."""
    for module in vae.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                # Frames mostly look alike: let the newest tap start as the whole convolution of a single frame.
                with torch.no_grad():
                    module.weight[:, :, :-1] *= 0.1
                    module.weight[:, :, -1] *= module.kernel_size[0] ** 0.5
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


@torch.no_grad()
def measure_latents(vae: WanVAE, source: FrameSource, count: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every latent channel over training frames."""
    rows = source.training[:: max(1, len(source.training) // count)]
    latents = torch.cat([encode_moments(vae, source.images(rows[i : i + 16])[0])[0] for i in range(0, len(rows), 16)])
    channels = latents.transpose(0, 1).flatten(1)
    return tuple(channels.mean(1).tolist()), tuple(channels.std(1).clamp_min(1e-3).tolist())


def _camera_columns(config: LightWAMConfig, step: int) -> slice | None:
    """Latent columns of one camera in turn, where the cameras stand side by side; decoding one at a time is cheaper."""
    cameras = config.cameras.cameras
    if any(camera.height != config.cameras.height for camera in cameras):
        return None
    camera, cell = cameras[step % len(cameras)], config.vae.spatial_factor
    return slice(camera.left // cell, (camera.left + camera.width) // cell)
