# SPDX-License-Identifier: Apache-2.0
"""`lightwam train policy`: the world action model on cached latents, with future-video and localisation losses.

Everything random follows from (seed, step), so a resumed run continues exactly. Besides the published losses there is
a training-only head that must find the task's objects in the expert's features, and the state is hidden from a part of
the samples: without both, a small policy learns to act on the robot's state alone.

Legend: B batch, V samples with a video pass, K located coordinates.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import LightWAMConfig
from lightwam.data.normalize import DatasetStatistics
from lightwam.errors import ConfigError
from lightwam.model import LightWAM, WanVAE
from lightwam.model.attention import AttentionMethod
from lightwam.model.checkpoint_folder import STATISTICS_FILE, load_checkpoint, part, save_checkpoint
from lightwam.model.fit import load_exactly
from lightwam.model.text import HashedWordsEncoder
from lightwam.progress import counting_bar
from lightwam.train.artifacts import (
    Curves,
    check_options,
    learning_rate,
    load_resume_point,
    restoring,
    save_resume_point,
)
from lightwam.train.device import batch_to_device, choose_attention, mixed_precision, to_device, use_device
from lightwam.train.policy_data import PolicyData, load_policy_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyTrainArgs:
    """Options of `lightwam train policy`."""

    data: tuple[Path, ...]
    """Folders of LeRobot data sets."""
    vae: Path
    """Checkpoint folder of the VAE (`lightwam train vae`); its configuration is taken over."""
    out: Path
    """Folder of the run: checkpoint/, curves, resume point."""
    cache: Path
    """Folder of decoded frames and latents; filled where it lacks some."""
    init: Path | None = None
    """Checkpoint folder to start from (its statistics too), for training on with more data."""
    steps: int = 4000
    stop_after: int | None = None
    """Save and stop at this step of the schedule, for going on later."""
    max_episodes: int | None = None
    """Use only the first so many episodes of each data set."""
    batch: int = 32
    video_batch: int = 4
    """Samples of each step that also get the video pass."""
    peak_learning_rate: float = 8e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are what the checkpoint holds."""
    state_dropout: float = 0.3
    """Share of samples whose state is hidden (zeros)."""
    localisation_weight: float = 0.3
    held_out: float = 0.04
    device: str = "cpu"
    """cpu, cuda (the first GPU) or cuda:N. Data stays in the processor's memory, batches are copied."""
    attention: AttentionMethod | None = None
    """How attention is computed. When absent `softmax` on a CPU; on a GPU `kernels` (Triton), or `sdpa` where there are
    none for it."""
    future_stride: int = 4
    """Futures are encoded for every so many rows."""
    seed: int = 42
    threads: int = 1
    """Processor threads of PyTorch."""
    log_every: int = 50
    save_every: int = 250


class PolicyNetworks(nn.Module):
    """What is trained: the policy, its text encoder, and the localisation head (training only, never exported)."""

    def __init__(self, config: LightWAMConfig, located: int) -> None:
        super().__init__()
        if config.text.kind != "hashed_words":
            raise ConfigError(f"text.kind is {config.text.kind!r}: this trainer trains policies with 'hashed_words'")
        self.policy = LightWAM(config)
        self.text_encoder = HashedWordsEncoder(config.text)
        features = config.action_expert.per_layer_dim * len(config.video_dit.adapters.layers)
        self.localiser = nn.Linear(features, located) if located else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.proprio_encoder.weight.device

    def weights(self) -> dict[str, Tensor]:
        """Policy and text encoder under the names of a checkpoint folder."""
        text = {f"text_encoder.{name}": tensor for name, tensor in self.text_encoder.state_dict().items()}
        return {**self.policy.state_dict(), **text}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Inverse of `weights`; VAE tensors in it are left alone. Raises `CheckpointError`."""
        known = {name: value for name, value in weights.items() if not name.startswith(("vae.", "text_encoder."))}
        self.policy.load_published(known)
        load_exactly(self.text_encoder, part(weights, "text_encoder."), "text encoder checkpoint")

    def locate(self, compressed: tuple[Tensor, ...]) -> Tensor | None:
        """Object coordinates [B, K] (z-scored) from the expert's per-layer features."""
        return None if self.localiser is None else self.localiser(torch.cat(compressed, dim=-1))


def with_context(networks: PolicyNetworks, data: PolicyData, batch: dict[str, Tensor], rows: Tensor) -> None:
    """Add `context` [B, L, E] and `context_mask` of the rows' tasks to a batch on the networks' device."""
    context = networks.text_encoder(data.tasks)
    tasks = to_device(data.task_N[rows], networks.device)
    batch["context"], batch["context_mask"] = context.rows[tasks], context.mask[tasks]


def training_losses(
    networks: PolicyNetworks, data: PolicyData, rows: Tensor, entries: Tensor, args: PolicyTrainArgs
) -> dict[str, Tensor]:
    """All losses of one step: `rows` for the action pass, `entries` of the futures for the video pass."""
    config, device = networks.policy.config, networks.device
    batch = data.batch(rows)
    hidden = torch.rand(len(rows), 1) < args.state_dropout
    batch["proprio"] = batch["proprio"].masked_fill(hidden, 0.0)
    batch = batch_to_device(batch, device)
    with_context(networks, data, batch, rows)
    loss_action, output = networks.policy.action_loss(batch)
    losses = {"loss_action": loss_action}
    total = config.loss.lambda_action * loss_action
    if len(entries):
        video, video_rows = data.video_batch(entries)
        video = batch_to_device(video, device)
        with_context(networks, data, video, video_rows)
        losses["loss_video"] = networks.policy.video_loss(video)
        total = total + config.loss.lambda_video * losses["loss_video"]
    located = networks.locate(output.compressed)
    if located is not None:
        # Not the square: centimetres must go on to matter once decimetres are right.
        losses["loss_localisation"] = F.smooth_l1_loss(
            located.float(), to_device(data.located_NK[rows], device), beta=0.1
        )
        total = total + args.localisation_weight * losses["loss_localisation"]
    return {"loss": total, **losses}


@torch.no_grad()
def validate(networks: PolicyNetworks, data: PolicyData, count: int = 256) -> dict[str, float]:
    """Held-out errors: normalised actions of the executed prefix; the target's position in cm, also without state.

    Nothing where no episode is held out.
    """
    config, device = networks.policy.config, networks.device
    if not len(data.held_out_rows):
        return {}
    std_K = to_device(data.located_std_K, device)
    chosen = data.held_out_rows[:: max(1, len(data.held_out_rows) // count)]
    squared: list[Tensor] = []
    off: list[Tensor] = []
    off_blind: list[Tensor] = []
    for start in range(0, len(chosen), 32):
        rows = torch.from_numpy(chosen[start : start + 32])
        batch = batch_to_device(data.batch(rows), device)
        with_context(networks, data, batch, rows)
        _, output = networks.policy.action_loss(batch)
        error = (output.actions_BHA.float() - batch["action"]).square()[:, : config.replan_steps]
        squared.append(error[~batch["action_is_pad"][:, : config.replan_steps]])
        batch["proprio"] = torch.zeros_like(batch["proprio"])
        _, hidden = networks.policy.action_loss(batch)
        for collected, result in ((off, output), (off_blind, hidden)):
            located = networks.locate(result.compressed)
            if located is not None:
                centimetres = 100 * (located.float() - to_device(data.located_NK[rows], device)) * std_K
                collected.append(centimetres.view(len(rows), -1, 2).norm(dim=-1))
    errors = torch.cat(squared)
    figures = {"held_out/action_mse": errors.mean(), "held_out/translation_mse": errors[:, :3].mean(),
               "held_out/gripper_mse": errors[:, -1].mean()}  # fmt: skip
    for name, collected in (("target", off), ("target_state_hidden", off_blind)):
        if collected:
            distances = torch.cat(collected)
            figures[f"held_out/{name}_cm"] = distances[:, 0].median()
            figures[f"held_out/{name}_to_gripper_cm"] = distances[:, -1].median()
    return {name: float(value) for name, value in figures.items()}


def _earlier_statistics(args: PolicyTrainArgs) -> DatasetStatistics | None:
    """Statistics of the run that is resumed or started from, which its weights belong to; None for a fresh start."""
    for folder in (args.out / "checkpoint", *([args.init] if args.init else [])):
        if (folder / STATISTICS_FILE).exists():
            return DatasetStatistics.load(folder / STATISTICS_FILE)
    return None


class PolicyTrainer:
    """One run: networks, their average, optimiser, data, and what a resume point holds."""

    def __init__(self, args: PolicyTrainArgs) -> None:
        self.args, self.device = args, use_device(args.device)
        attention = choose_attention(args.attention, self.device)
        torch.manual_seed(args.seed)
        vae_config, vae_weights = load_checkpoint(args.vae)
        self.config = dataclasses.replace(LightWAMConfig.nano(), vae=vae_config.vae)
        self.vae = WanVAE(self.config.vae)
        self.vae_weights = part(vae_weights, "vae.")
        load_exactly(self.vae, self.vae_weights, f"VAE checkpoint {args.vae}")
        self.vae.to(self.device)
        statistics = _earlier_statistics(args)
        self.data, self.statistics = load_policy_data(
            args.data, self.config, self.vae, args.cache, statistics=statistics, held_out=args.held_out,
            seed=args.seed, future_stride=args.future_stride, max_episodes=args.max_episodes,
        )  # fmt: skip
        torch.manual_seed(args.seed)
        located = self.data.located_NK.shape[1]
        self.networks, self.average = PolicyNetworks(self.config, located), PolicyNetworks(self.config, located)
        self.networks.policy.set_attention(attention)
        self.average.policy.set_attention(attention)
        if args.init is not None:
            self.networks.load_weights(load_checkpoint(args.init)[1])
        self.average.load_state_dict(self.networks.state_dict())
        self.average.requires_grad_(False)
        self.networks.to(self.device)  # the random start is the processor's, on every device
        self.average.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=args.peak_learning_rate, betas=(0.9, 0.95), weight_decay=args.weight_decay
        )
        self.step = 0
        self.curves = Curves(args.out, self._resume())

    def _resume(self) -> dict[str, list[tuple[int, float]]] | None:
        state = load_resume_point(self.args.out / "resume.pt")
        if state is None:
            return None
        with restoring(self.args.out / "resume.pt"):
            self.networks.load_state_dict(state["networks"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            history: dict[str, list[tuple[int, float]]] = state["history"]
        return history

    def train_step(self) -> dict[str, Tensor]:
        """One update; the batch, the noise and the hidden states follow from (seed, step) alone."""
        args, data = self.args, self.data
        rng = np.random.default_rng([args.seed, self.step])
        torch.manual_seed(int(rng.integers(2**31)))
        rows = torch.from_numpy(rng.choice(data.training_rows, args.batch))
        entries = torch.from_numpy(rng.choice(data.training_entries, args.video_batch))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, args.peak_learning_rate, args.warmup_steps, args.steps)
        with mixed_precision(self.device):
            losses = training_losses(self.networks, data, rows, entries, args)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.networks.parameters(), args.gradient_clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return losses

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, the average follows closely, so that it forgets the random start.
        decay = min(self.args.ema_decay, (1 + self.step) / (10 + self.step))
        for averaged, current in zip(self.average.parameters(), self.networks.parameters(), strict=True):
            averaged.lerp_(current, 1.0 - decay)

    def save(self) -> None:
        """Resume point, checkpoint of the averaged weights, curves."""
        state = {
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.curves.history,
        }
        save_resume_point(self.args.out / "resume.pt", state)
        weights = {**self.average.weights(), **{f"vae.{name}": value for name, value in self.vae_weights.items()}}
        save_checkpoint(self.args.out / "checkpoint", self.config, weights, self.statistics.to_dict())
        self.curves.draw(self.args.out / "losses.png")

    def run(self) -> None:
        """Train to the last step, saving as it goes."""
        args, recent, started = self.args, list[dict[str, Tensor]](), time.perf_counter()
        last = min(args.steps, args.stop_after or args.steps)
        with counting_bar("train policy", show=True) as update:
            while self.step < last:
                recent.append({name: value.detach() for name, value in self.train_step().items()})  # not waited for
                update(self.step, last)
                if self.step % args.log_every == 0:
                    point = {n: float(np.mean([float(values[n]) for values in recent])) for n in recent[0]}
                    point["seconds_a_step"] = (time.perf_counter() - started) / len(recent)
                    recent, started = [], time.perf_counter()
                    self._report(point)
                if self.step % args.save_every == 0 or self.step == last:
                    self._report(validate(self.average, self.data))
                    self.save()
                    started = time.perf_counter()
        self.curves.close()

    def _report(self, point: dict[str, float]) -> None:
        self.curves.add(self.step, point)
        log.info("step %d %s", self.step, {name: round(value, 4) for name, value in point.items()})


def main(args: PolicyTrainArgs) -> int:
    """Train (or resume) the nano policy; the checkpoint lands in `OUT/checkpoint`."""
    check_options(args)
    torch.set_num_threads(args.threads)
    PolicyTrainer(args).run()
    return 0
