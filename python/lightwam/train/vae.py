# SPDX-License-Identifier: Apache-2.0
"""`lightwam train vae`: the small VAE of a policy, trained on recorded frames and short clips.

A robot's camera stands still, so most pixels never change: reconstruction weighs a pixel by how far it differs from the
data set's mean image, and a temporary head must find the task's objects in the latents, so that their position
survives compression. After training, the latents' mean and deviation are measured and stored in the configuration.

Legend: N images, C latent channels, H x W canvas, h x w latent, F frames of a clip.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.images import scale_pixels
from lightwam.data.lerobot import LeRobotDataset, first_episodes, open_dataset
from lightwam.data.windows import build_windows, rows_of, split_episodes
from lightwam.model.checkpoint_folder import save_checkpoint
from lightwam.model.vae import WanVAE
from lightwam.progress import counting_bar
from lightwam.train.artifacts import (
    Curves,
    check_options,
    learning_rate,
    load_resume_point,
    restoring,
    save_resume_point,
)
from lightwam.train.device import mixed_precision, to_device, use_device
from lightwam.train.vae_path import decode_raw, encode_moments

log = logging.getLogger(__name__)
LOCATED = ("privileged.target_xy", "privileged.basket_xy")


@dataclass(frozen=True)
class VAETrainArgs:
    """Options of `lightwam train vae`."""

    data: tuple[Path, ...]
    """Folders of LeRobot data sets."""
    out: Path
    """Folder of the run: checkpoint/, curves, resume point."""
    cache: Path
    """Folder of decoded frames; filled where it lacks some."""
    max_episodes: int | None = None
    """Use only the first so many episodes of each data set."""
    steps: int = 2400
    batch: int = 8
    """Frames a step."""
    clip_every: int = 6
    """Every so many steps, clips instead of frames."""
    clip_batch: int = 2
    peak_learning_rate: float = 2e-3
    warmup_steps: int = 50
    kl_weight: float = 1e-5
    foreground_weight: float = 8.0
    """How much more a pixel counts that differs from the mean image."""
    localisation_weight: float = 0.1
    held_out: float = 0.05
    device: str = "cpu"
    """cpu, cuda (the first GPU) or cuda:N. Data stays in the processor's memory, batches are copied."""
    seed: int = 42
    threads: int = 1
    save_every: int = 200


class Localiser(nn.Module):
    """Temporary head: latents [N, C, h, w] -> xy of every located object (z-scored), [N, outputs]."""

    def __init__(self, channels: int, size: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 8, 1), nn.Flatten(),
            nn.Linear(8 * size[0] * size[1], outputs),
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Tensor:
        located: Tensor = self.body(latents)
        return located


class FrameSource:
    """All frames of some data sets in memory, with what is needed to draw batches of frames and clips on a device."""

    def __init__(self, args: VAETrainArgs, config: LightWAMConfig, device: torch.device) -> None:
        self.device = device
        frames, held_out, clips, located, start = [], [], [], [], 0
        for folder in args.data:
            dataset = first_episodes(open_dataset(folder), args.max_episodes)
            dataset.check(tuple(c.name for c in config.cameras.cameras), config.state_dim, config.action_dim)
            cache = FrameCache(dataset, config.cameras, args.cache)
            cache.build()
            frames += [cache.load(episode) for episode in dataset.episodes]
            held_out.append(start + rows_of(split_episodes(dataset, args.held_out, args.seed)[1]))
            clips.append(start + build_windows(dataset, config).frame_rows_NF)
            located.append(located_objects(dataset))
            start += len(dataset.state)
        self.frames: npt.NDArray[np.uint8] = np.concatenate(frames)
        self.held_out = np.concatenate(held_out)
        self.training = np.setdiff1d(np.arange(start), self.held_out)
        self.clip_rows = np.concatenate(clips)
        located_NP = np.concatenate(located)
        self.located_mean, self.located_std = located_NP.mean(0), located_NP.std(0) + 1e-6
        self.located = ((located_NP - self.located_mean) / self.located_std).astype(np.float32)
        sample = np.random.default_rng(args.seed).choice(self.training, min(1000, len(self.training)), replace=False)
        self.mean_image = self._video(self.frames[np.sort(sample)]).mean(0)

    def _video(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [..., H, W, 3] -> [-1, 1] float [..., 3, H, W], on the device."""
        return scale_pixels(
            to_device(torch.from_numpy(np.moveaxis(frames, -1, -3).copy()), self.device).float() / 255.0
        )

    def _located(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return to_device(torch.from_numpy(self.located[rows]), self.device)

    def images(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(clips of one frame [N, 3, 1, H, W], object positions [N, 2 K])."""
        return self._video(self.frames[rows]).unsqueeze(2), self._located(rows)

    def clips(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(clips [N, 3, F, H, W] that start at these rows, object positions in their first frame)."""
        return self._video(self.frames[self.clip_rows[rows]]).transpose(1, 2), self._located(rows)


def located_objects(dataset: LeRobotDataset) -> npt.NDArray[np.float32]:
    """Positions (metres) of the objects that the recorder noted, [rows, 2 K]; K is 0 where it noted none."""
    known = [dataset.columns[key] for key in LOCATED if key in dataset.columns]
    return np.concatenate([np.zeros((len(dataset.state), 0), np.float32), *known], axis=1)


def _camera_columns(config: LightWAMConfig, step: int) -> slice | None:
    """Latent columns of one camera in turn, where the cameras stand side by side; decoding one at a time is cheaper."""
    cameras = config.cameras.cameras
    if any(camera.height != config.cameras.height for camera in cameras):
        return None
    camera, cell = cameras[step % len(cameras)], config.vae.spatial_factor
    return slice(camera.left // cell, (camera.left + camera.width) // cell)


def vae_losses(
    vae: WanVAE, localiser: Localiser | None, video: Tensor, located: Tensor, mean_image: Tensor, args: VAETrainArgs,
    columns: slice | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted reconstruction (L1), KL and localisation of clips [N, 3, F, H, W]; decodes `columns` of the latent."""
    mean, log_variance = encode_moments(vae, video)
    log_variance = log_variance.float().clamp(-20.0, 10.0)
    raw = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance).to(mean.dtype)
    target, background = video, mean_image[:, None]
    if columns is not None:
        raw, cell = raw[..., columns], vae.config.spatial_factor
        pixels = slice(columns.start * cell, columns.stop * cell)
        target, background = target[..., pixels], background[..., pixels]
    decoded = decode_raw(vae, raw).float()
    difference = (target - background).abs().mean(1, keepdim=True)
    weight = 1.0 + args.foreground_weight * difference / (difference + 0.1)
    reconstruction = ((decoded - target).abs() * weight).mean() / weight.mean()
    mean = mean.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    losses = {"reconstruction": reconstruction, "kl": kl}
    total = reconstruction + args.kl_weight * kl
    if localiser is not None:
        losses["localisation"] = F.mse_loss(localiser(mean[:, :, 0]).float(), located)
        total = total + args.localisation_weight * losses["localisation"]
    return {"loss": total, **losses}


@torch.no_grad()
def validate(vae: WanVAE, localiser: Localiser | None, source: FrameSource) -> dict[str, float]:
    """Held-out foreground PSNR (dB; pixels off the mean image by more than 0.1) and localisation error (cm).

    Nothing where no episode is held out.
    """
    if not len(source.held_out):
        return {}
    rows = source.held_out[:: max(1, len(source.held_out) // 64)]
    video, located = source.images(rows)
    mean, _ = encode_moments(vae, video)
    error = (decode_raw(vae, mean).clamp(-1, 1) - video).square().mean(1) / 4.0
    foreground = (video - source.mean_image[:, None]).abs().mean(1) > 0.1
    result = {"held_out/psnr_foreground_db": float(-10 * torch.log10(error[foreground].mean()))}
    if localiser is not None:
        off = (localiser(mean[:, :, 0]) - located) * torch.from_numpy(source.located_std).to(located)
        result["held_out/localisation_cm"] = float(100 * off.view(len(rows), -1, 2).norm(dim=-1).mean())
    return result


@torch.no_grad()
def measure_latents(vae: WanVAE, source: FrameSource, count: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every latent channel over training frames."""
    rows = source.training[:: max(1, len(source.training) // count)]
    latents = torch.cat([encode_moments(vae, source.images(rows[i : i + 16])[0])[0] for i in range(0, len(rows), 16)])
    channels = latents.transpose(0, 1).flatten(1)
    return tuple(channels.mean(1).tolist()), tuple(channels.std(1).clamp_min(1e-3).tolist())


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


class VAETrainer:
    """One run: networks, optimiser, and what a resume point holds."""

    def __init__(self, args: VAETrainArgs, config: LightWAMConfig) -> None:
        self.args, self.config, self.device = args, config, use_device(args.device)
        torch.manual_seed(args.seed)
        self.source = FrameSource(args, config, self.device)
        self.vae = WanVAE(config.vae)
        initialise(self.vae)
        outputs = self.source.located.shape[1]
        self.localiser = Localiser(config.vae.z_dim, config.latent_size, outputs) if outputs else None
        self.networks = nn.ModuleList([self.vae, *([self.localiser] if self.localiser else [])]).to(self.device)
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
        self.step = 0
        state = load_resume_point(args.out / "resume.pt")
        if state is not None:
            with restoring(args.out / "resume.pt"):
                self.networks.load_state_dict(state["networks"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step = int(state["step"])
        self.curves = Curves(args.out, None if state is None else state["history"])

    def train_step(self) -> dict[str, Tensor]:
        """One update on frames, or on clips; batches and noise follow from (seed, step) alone."""
        args, source = self.args, self.source
        rng = np.random.default_rng([args.seed, self.step])
        torch.manual_seed(int(rng.integers(2**31)))
        is_clip = args.clip_every > 0 and self.step % args.clip_every == args.clip_every - 1
        rows = rng.choice(source.training, args.clip_batch if is_clip else args.batch)
        video, located = source.clips(rows) if is_clip else source.images(rows)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, args.peak_learning_rate, args.warmup_steps, args.steps)
        columns = _camera_columns(self.config, int(rng.integers(1000)))
        with mixed_precision(self.device):
            losses = vae_losses(self.vae, self.localiser, video, located, source.mean_image, args, columns)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {} if is_clip else losses

    def save(self) -> None:
        """Resume point, checkpoint (with measured latent statistics), curves."""
        state = {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                 "history": self.curves.history}  # fmt: skip
        save_resume_point(self.args.out / "resume.pt", state)
        mean, std = measure_latents(self.vae, self.source)
        config = dataclasses.replace(
            self.config, vae=dataclasses.replace(self.config.vae, latent_mean=mean, latent_std=std)
        )
        weights = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        save_checkpoint(self.args.out / "checkpoint", config, weights)
        self.curves.draw(self.args.out / "losses.png")

    def run(self) -> None:
        """Train to the last step, saving as it goes."""
        started, first = time.perf_counter(), self.step
        recent: list[dict[str, Tensor]] = []
        with counting_bar("train VAE", show=True) as update:
            while self.step < self.args.steps:
                losses = self.train_step()
                recent += [{name: value.detach() for name, value in losses.items()}] if losses else []
                update(self.step, self.args.steps)
                if self.step % 50 == 0:
                    point: dict[str, Any] = {n: np.mean([float(values[n]) for values in recent]) for n in recent[0]}
                    recent = []
                    point["seconds_a_step"] = (time.perf_counter() - started) / (self.step - first)
                    self.curves.add(self.step, point)
                    log.info("step %d %s", self.step, {name: round(float(v), 4) for name, v in point.items()})
                if self.step % self.args.save_every == 0 or self.step == self.args.steps:
                    held_out = validate(self.vae, self.localiser, self.source)
                    self.curves.add(self.step, held_out)
                    log.info("step %d %s", self.step, {name: round(v, 3) for name, v in held_out.items()})
                    self.save()
        self.curves.close()


def main(args: VAETrainArgs) -> int:
    """Train (or resume) the VAE of `LightWAMConfig.nano()`; the checkpoint lands in `OUT/checkpoint`."""
    check_options(args)
    torch.set_num_threads(args.threads)
    VAETrainer(args, LightWAMConfig.nano()).run()
    return 0
