# SPDX-License-Identifier: Apache-2.0
"""A policy on held-out episodes: errors of its actions by step of the chunk, of located objects, of imagined futures.

Legend: B batch, H horizon, A action width, K located coordinates, T latents, F frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.files import replacing_file
from lightwam.model import LightWAM
from lightwam.model.vae import WanVAE
from lightwam.pictures import draw
from lightwam.train.loader import MicroBatch, joined
from lightwam.train.networks import PolicyNetworks
from lightwam.train.policy_data import PolicySamples

Ready = Callable[[MicroBatch], MicroBatch]
"""Puts a micro-batch on the device, with latents and context."""


def every(samples: PolicySamples, count: int, batch: int) -> Iterator[MicroBatch]:
    """About `count` samples spread over all, in micro-batches."""
    size = len(samples)
    chosen = range(0, size, max(1, size // count))
    for start in range(0, len(chosen), batch):
        yield joined([samples[i, 0] for i in chosen[start : start + batch]])


@torch.no_grad()
def action_errors(
    networks: PolicyNetworks, samples: PolicySamples, ready: Ready, count: int = 256
) -> tuple[dict[str, float], list[float], tuple[Tensor, Tensor]]:
    """(figures, mean absolute error of each step of the chunk, predicted and true actions of the first samples).

    Actions are normalised. `action_mse` is of the executed steps; padded steps count nowhere.
    """
    config, squared, absolute, valid = networks.config, list[Tensor](), list[Tensor](), list[Tensor]()
    first: tuple[Tensor, Tensor] | None = None
    for given in every(samples, count, 32):
        batch = ready(given)
        output = networks.policy.action_loss(batch)[1]
        error = output.actions_BHA.float() - batch["action"]
        absolute.append(error.abs().mean(-1).cpu())
        valid.append(~batch["action_is_pad"].cpu())
        squared.append(error.square().cpu())
        first = first or (output.actions_BHA.float().cpu(), batch["action"].cpu())
    error_NHA, valid_NH = torch.cat(squared), torch.cat(valid)
    executed = error_NHA[:, : config.replan_steps][valid_NH[:, : config.replan_steps]]
    figures = {"held_out/action_mse": executed.mean(), "held_out/translation_mse": executed[:, :3].mean()}
    if config.robot.gripper is not None:
        figures["held_out/gripper_mse"] = executed[:, config.robot.gripper_column].mean()
    absolute_NH = torch.cat(absolute) * valid_NH
    by_step = absolute_NH.sum(0) / valid_NH.sum(0).clamp_min(1)
    figures["held_out/action_l1"] = absolute_NH.sum() / valid_NH.sum().clamp_min(1)
    assert first is not None
    return {name: float(value) for name, value in figures.items()}, by_step.tolist(), first


@torch.no_grad()
def located_errors(
    networks: PolicyNetworks, samples: PolicySamples, ready: Ready, deviation_K: Tensor, count: int = 256
) -> dict[str, float]:
    """Median distances in cm of the located objects, with the robot's state and without it."""
    found: dict[str, list[Tensor]] = {"target": [], "target_state_hidden": []}
    for given in every(samples, count, 32):
        batch = ready(given)
        hidden = {**batch, "proprio": torch.zeros_like(batch["proprio"])}
        for name, seen in (("target", batch), ("target_state_hidden", hidden)):
            located = networks.locate(networks.policy.action_loss(seen)[1])
            assert located is not None
            off = 100 * (located.float() - batch["located"]) * deviation_K.to(located.device)
            found[name].append(off.view(len(off), -1, 2).norm(dim=-1).cpu())
    figures = {}
    for name, collected in found.items():
        distances = torch.cat(collected)
        figures[f"held_out/{name}_cm"] = float(distances[:, 0].median())
        figures[f"held_out/{name}_to_gripper_cm"] = float(distances[:, -1].median())
    return figures


@torch.no_grad()
def future_errors(
    networks: PolicyNetworks, samples: PolicySamples, ready: Ready, vae: WanVAE, count: int, sampling_steps: int
) -> list[float]:
    """PSNR (dB) of each frame of imagined futures against the true ones, both decoded at the resolution trained at.

    Of `count` windows, spread over those that end inside their episode: frames past its end are not learned.
    """
    squared, inside = list[Tensor](), samples.inside()
    for number, place in enumerate(inside[:: max(1, len(inside) // count)][:count].tolist()):
        batch = ready(joined([samples[place, 0]]))
        imagined, true = imagined_future(networks.policy, batch, vae, number, sampling_steps)
        squared.append(frame_errors(imagined, true).cpu())
    return psnr(torch.stack(squared).mean(0))


@torch.no_grad()
def imagined_future(
    policy: LightWAM, batch: Mapping[str, Any], vae: WanVAE, seed: int, sampling_steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """The imagined future of one window and the true one, [1, 3, F, h, w] in -1..1.

    Both are decoded at the resolution that the policy is trained at, so that they differ by what was imagined and not
    by what the VAE or fewer pixels lose. The first frame is given.

    Args:
        batch: of one window: `video_latents`, `context`, `context_mask`, `proprio`.
        seed: of the noise to start from, drawn on the CPU.
        sampling_steps: Euler steps; the configuration's number if None.
    """
    latents, noise = batch["video_latents"], torch.Generator().manual_seed(seed)
    first, true = latents[:, :, :1], policy.downsample(latents)
    start = torch.randn(true.shape, generator=noise).to(true)
    imagined = policy.sample_video(
        first, batch["context"], batch["context_mask"], batch["proprio"], num_steps=sampling_steps, noise=start
    )
    return vae.decode(imagined.float()), vae.decode(true.float())


def frame_errors(video: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of each frame [F] of videos [B, 3, F, h, w] in -1..1, as of pixels in 0..1."""
    return ((video - true) / 2).square().mean(dim=(0, 1, 3, 4))


def psnr(error_F: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of mean squared errors of pixels in 0..1; 100 dB at most."""
    return (-10 * torch.log10(error_F.clamp_min(1e-10))).tolist()


def write_details(path: Path, details: dict[str, Any]) -> None:
    """Errors by step and by frame as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as building:
        building.write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")


def draw_actions(path: Path, predicted_BHA: Tensor, true_BHA: Tensor, names: list[str], by_step: list[float]) -> None:
    """Predicted against true action chunks, one panel a dimension, and the error by step. A failure is a warning."""
    shown = min(4, len(predicted_BHA))
    panels = len(names) + 1
    columns = min(4, panels)

    def fill(figure: Any) -> None:
        rows = -(-panels // columns)
        steps = np.arange(predicted_BHA.shape[1])
        for place, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, place + 1)
            for sample in range(shown):
                (line,) = axes.plot(steps, true_BHA[sample, :, place], linewidth=1)
                axes.plot(steps, predicted_BHA[sample, :, place], "--", linewidth=1, color=line.get_color())
            axes.set_title(f"{name} (dashed: predicted)", fontsize=8)
            axes.grid(alpha=0.3)
        axes = figure.add_subplot(rows, columns, panels)
        axes.plot(np.arange(len(by_step)), by_step, linewidth=1)
        axes.set_title("mean absolute error by step", fontsize=8)
        axes.grid(alpha=0.3)

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(path, fill, size=(3.6 * columns, 2.4 * (-(-panels // columns))), dpi=100)
