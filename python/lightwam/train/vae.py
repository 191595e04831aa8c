# SPDX-License-Identifier: Apache-2.0
"""The trainer of a policy's small VAE, on recorded frames and short clips.

After training, the latents' mean and deviation are measured and stored in the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightwam.config import LightWAMConfig, read_config
from lightwam.data.augment import augment, rectangles
from lightwam.data.images import scale_pixels
from lightwam.identity import Fingerprint
from lightwam.model.checkpoint_folder import save_checkpoint
from lightwam.model.vae import WanVAE
from lightwam.train import recipe
from lightwam.train.distributed import World, use_world
from lightwam.train.fingerprint import make_fingerprint
from lightwam.train.loader import MicroBatch, Order
from lightwam.train.options import VAELosses, VAETrainArgs
from lightwam.train.recipe import Recipe
from lightwam.train.run_folder import RunFolder, check_not_in_use, check_run_folder
from lightwam.train.trainer import Ready, Trainer
from lightwam.train.vae_data import FrameSource
from lightwam.train.vae_losses import Localiser, vae_losses, validate
from lightwam.train.vae_path import encode_moments


class VAENetworks(nn.Module):
    """The VAE, and beside it the temporary head that locates objects; forward returns the losses."""

    def __init__(self, vae: WanVAE, localiser: Localiser | None, mean_image: Tensor, weights: VAELosses) -> None:
        super().__init__()
        self.vae, self.localiser, self.weights = vae, localiser, weights
        self.mean_image = mean_image

    def forward(self, batch: MicroBatch, noise: Tensor | None, timestep: Tensor | None) -> dict[str, Tensor]:
        """Losses of `video` [N, 3, F, H, W] and `located` [N, 2 K]; of clips only the sum that is trained on."""
        losses = vae_losses(
            self.vae, self.localiser, batch["video"], batch["located"], self.mean_image, self.weights,
            batch["columns"], batch["plain"],
        )  # fmt: skip
        return {"loss": losses["loss"]} if batch["video"].shape[2] > 1 else losses


class VAETraining:
    """What `lightwam.train.trainer` trains: the VAE on frames and, every so many updates, on clips."""

    label = "train VAE"
    find_unused = True  # clips use what frames do not

    def __init__(self, args: VAETrainArgs, world: World) -> None:
        self.args, self.world = args, world
        self.config = config = read_config(args.inputs.config)
        seed = args.schedule.seed
        torch.manual_seed(seed)
        self.source = FrameSource(args.inputs, config, world.device, args.saving.held_out, seed)
        torch.manual_seed(seed)
        self.vae = WanVAE(config.vae)
        initialise(self.vae)
        outputs = self.source.located.shape[1]
        localiser = Localiser(config.vae.z_dim, config.latent_size, outputs) if outputs else None
        self.networks = VAENetworks(self.vae, localiser, self.source.mean_image, args.losses).to(world.device)
        self.order = Order((len(self.source.training),), args.schedule.batch, seed, world=world.size)

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """The rows of each update, and the columns of the latent that are decoded; drawn from seed and update."""
        schedule, source = self.args.schedule, self.source
        for step in range(first, last):
            rng = np.random.default_rng([schedule.seed, step, self.world.rank])
            is_clip = schedule.clip_every > 0 and step % schedule.clip_every == schedule.clip_every - 1
            rows = rng.choice(source.training, schedule.clip_batch if is_clip else schedule.batch)
            video, located = source.clips(rows) if is_clip else source.images(rows)
            columns = _camera_columns(self.config, int(rng.integers(1000)))
            yield [
                {
                    "video": self._augmented(video, step), "plain": video, "located": located, "columns": columns,
                    "rows": torch.from_numpy(rows),
                }
            ]  # fmt: skip

    def _augmented(self, video: Tensor, step: int) -> Tensor:
        """The clips [N, 3, F, H, W], each changed by numbers that follow from seed, rank, update and place."""
        how, layout = self.args.augmentation, self.config.cameras
        if how.changes_nothing:
            return video
        places = rectangles(layout, (layout.height, layout.width))
        key = ("vae", self.args.schedule.seed, self.world.rank, step)
        clips = [
            augment((clip.cpu() * 0.5 + 0.5).transpose(0, 1), places, how, *key, place).transpose(0, 1)
            for place, clip in enumerate(video)
        ]
        return scale_pixels(torch.stack(clips)).to(video.device)

    def ready(self, batch: MicroBatch, generator: torch.Generator) -> Ready:
        """The batch, which is on the device already."""
        return Ready(batch)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out PSNR and localisation error."""
        return validate(self.vae, self.networks.localiser, self.source)

    def write_checkpoint(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        """The VAE, and in its configuration the measured statistics of its latents."""
        mean, std = measure_latents(self.vae, self.source)
        vae_config = dataclasses.replace(self.config.vae, latent_mean=mean, latent_std=std)
        weights = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        save_checkpoint(folder, dataclasses.replace(self.config, vae=vae_config), weights)

    def recipe(self) -> Recipe:
        """The options as the loop takes them."""
        schedule, optimizer, saving = self.args.schedule, self.args.optimizer, self.args.saving
        return Recipe(
            name="vae",
            policy=self.config,
            schedule=recipe.Schedule(
                steps=schedule.steps, batch=schedule.batch, peak_learning_rate=schedule.peak_learning_rate,
                warmup_steps=schedule.warmup_steps, seed=schedule.seed,
            ),
            optimizer=recipe.Optimizer(
                weight_decay=optimizer.weight_decay, betas=optimizer.betas, gradient_clip=optimizer.gradient_clip
            ),
            computing=recipe.Computing(precision=self.args.precision),
            saving=recipe.Saving(
                log_every=saving.log_every, save_every=saving.save_every, stop_after=saving.stop_after
            ),
        )  # fmt: skip

    def fingerprint(self) -> Fingerprint:
        """What the result depends on."""
        args = self.args
        options: dict[str, Any] = {"schedule": args.schedule, "optimizer": args.optimizer, "losses": args.losses}
        if not args.augmentation.changes_nothing:  # runs from before there was one stay what they are
            options["augmentation"] = args.augmentation
        return make_fingerprint(
            seed=args.schedule.seed,
            recipe={
                **{name: dataclasses.asdict(group) for name, group in options.items()},
                "held_out": args.saving.held_out,
                "precision": args.precision,
            },
            config=self.config,
            data=self.source.identities,
        )


def train_vae(args: VAETrainArgs) -> Trainer:
    """Train by the arguments of the command line; a run that was stopped goes on. Returns what ran."""
    check_run_folder(args.out, "vae")
    with use_world(args.machine.device) as world:
        world.on_first(lambda: check_not_in_use(args.out))
        training = VAETraining(args, world)
        with RunFolder(
            args.out, "vae", training.fingerprint(), allow_changed=args.allow_changed, world=world
        ) as folder:
            trainer = Trainer(training, training.recipe(), folder, world)
            trainer.run()
    return trainer


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
