# SPDX-License-Identifier: Apache-2.0
"""FLOPs and time of a training step, ours beside the published one: `python benchmarks/training_step.py`.

FLOPs are counted by torch.utils.flop_counter on the meta device, forward and backward, batch 1, latents from a cache.
With --time SIZE both steps take turns on the CPU, optimizer included, and torch.profiler tells where the time goes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightwam.config import ActionExpertConfig, LightWAMConfig, LoRAConfig, LossConfig
from lightwam.model import LightWAM, attention, dit
from lightwam.model.action_expert import LearnedQueryPooler
from lightwam.model.context import merge_equal_rows
from lightwam.model.losses import action_loss
from lightwam.train import TrainStep

TEXT_ROWS = 20
"""Of an instruction, as in docs/reference/export.md; the rows past it, up to `text.length`, are zero."""


@dataclass(frozen=True)
class Step:
    """Inputs of `LightWAM.training_losses`."""

    batch: dict[str, Tensor]
    noise: Tensor
    timestep: Tensor

    def with_equal_rows_merged(self) -> Step:
        """The same batch as a data loader may give it."""
        context, counts = merge_equal_rows(self.batch["context"], self.batch["context_mask"])
        return replace(self, batch={**self.batch, "context": context, "context_mask": counts})

    def to(self, device: str) -> Step:
        batch = {name: value.to(device) for name, value in self.batch.items()}
        return Step(batch, self.noise.to(device), self.timestep.to(device))


def random_step(config: LightWAMConfig, samples: int = 1) -> Step:
    """A batch of windows, nothing padded, an instruction of `TEXT_ROWS` rows or half of the rows that there are."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    frames, factor = 1 + (config.video.num_frames - 1) // config.vae.temporal_factor, config.video.spatial_downsample
    (height, width), length = config.latent_size, config.text.length
    context = randn(samples, length, config.text.width)
    context[:, min(TEXT_ROWS, length // 2) :] = 0
    batch = {
        "video_latents": randn(samples, config.vae.z_dim, frames, height, width),
        "action": randn(samples, config.horizon, config.action_dim),
        "proprio": randn(samples, config.state_dim),
        "context": context,
        "context_mask": torch.ones(samples, length, dtype=torch.bool),
    }
    noise = randn(samples, config.vae.z_dim, frames, height // factor, width // factor)
    return Step(batch, noise, 1000 * torch.rand(samples, generator=generator))


# The published step, and ours with some of its savings ----------------------------------------------------------------


def published_losses(model: LightWAM, step: Step) -> dict[str, Tensor]:
    """As published: every block in both passes, a time for every token, all text rows, masks, unfolded poolers."""
    batch, config = step.batch, model.config
    with (
        mock.patch.multiple(dit, _modulate=_modulate_tokens, _add_gated=_add_gated_tokens),
        mock.patch.object(dit.VideoDiT, "_embed_time", _embed_time_of_every_token),
    ):
        video = model.video_loss(batch, step.noise, step.timestep)
        context = (batch["context"], batch["context_mask"], batch["proprio"])
        actions = model.predict_actions(batch["video_latents"][:, :, :1], *context)
    action = action_loss(actions, batch["action"], None, config.loss.temporal_weighting)
    losses = {"loss_video": config.loss.lambda_video * video, "loss_action": config.loss.lambda_action * action}
    return {"loss": losses["loss_video"] + losses["loss_action"], **losses}


def our_losses(model: LightWAM, step: Step) -> dict[str, Tensor]:
    """What `TrainStep` runs."""
    return model.training_losses(step.batch, step.noise, step.timestep)


def _plain_losses(model: LightWAM, step: Step) -> dict[str, Tensor]:
    return model.training_losses(step.batch, step.noise, step.timestep, exact_savings=False)


def _embed_time_of_every_token(
    self: dit.VideoDiT, timestep_B: Tensor, time_sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """t [B, S, D] and its six vectors [B, S, 6, D]."""
    times = torch.stack((torch.zeros_like(timestep_B), timestep_B), dim=1).split(1, dim=1)
    times_BS = torch.cat([time.expand(-1, size) for time, size in zip(times, time_sizes, strict=False)], dim=1)
    embedded = dit.sinusoidal_embedding(times_BS.flatten(), self.config.freq_dim)
    t = self.time_embedding(embedded.to(self.patch_embedding.weight.dtype)).unflatten(0, times_BS.shape)
    return t, self.time_projection(t).unflatten(-1, (6, -1))


def _modulate_tokens(x_BSD: Tensor, shift_BSD: Tensor, scale_BSD: Tensor, _: tuple[int, ...]) -> Tensor:
    return x_BSD * (1 + scale_BSD) + shift_BSD


def _add_gated_tokens(x_BSD: Tensor, y_BSD: Tensor, gate_BSD: Tensor, _: tuple[int, ...]) -> Tensor:
    return x_BSD + gate_BSD * y_BSD


def _predict_of_all(self: dit.VideoDiT, tokens_BSD: Tensor, inputs: dit.DiTInputs, first_block: int) -> Tensor:
    """`predict_later` with the whole last block."""
    inputs = replace(inputs, tokens_BSD=tokens_BSD)
    return self.predict(self.run_blocks(inputs, first_block=first_block).tokens_BSD, inputs)[:, :, 1:]


Losses = Callable[[LightWAM, Step], dict[str, Tensor]]


@contextmanager
def _without(*savings: str) -> Iterator[None]:
    """Ours without some of its savings."""
    pool = LearnedQueryPooler.forward
    patches = {
        "keys": mock.patch.object(attention, "_projecting_keys_pays", lambda keys, head_dim: False),
        "poolers": mock.patch.object(
            LearnedQueryPooler, "forward", lambda self, tokens, fold=False: pool(self, tokens)
        ),
        "last": mock.patch.object(dit.VideoDiT, "predict_later", _predict_of_all),
        "steps": mock.patch.object(LossConfig, "supervised_steps", lambda self, horizon: horizon),
    }
    with ExitStack() as stack:
        for saving in savings:
            stack.enter_context(patches[saving])
        yield


# FLOPs ---------------------------------------------------------------------------------------------------------------


class _Counted(nn.Module):
    """A step as a module's forward pass, so that the counter knows its blocks by name."""

    def __init__(self, model: LightWAM, losses: Losses) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, step: Step) -> Tensor:
        return self.losses(self.model, step)["loss"]


def count_flops(model: LightWAM, losses: Losses, step: Step) -> tuple[int, int, list[int]]:
    """FLOPs of the losses, of their backward pass, and of both in each block of the backbone.

    2 a multiply-add; matmuls and convolutions alone.
    """
    model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counter:
        loss = _Counted(model, losses)(step)
        forward = counter.get_total_flops()
        loss.backward()
    counts = counter.get_flop_counts()
    blocks = [
        sum(counts[f"_Counted.model.mot.mixtures.video.blocks.{block}"].values())
        for block in range(len(model.video_dit.blocks))
    ]
    return forward, counter.get_total_flops() - forward, blocks


def count_savings(config: LightWAMConfig) -> Iterator[tuple[str, int, int]]:
    """(what is saved, forward, backward) of the published step and of steps with one saving more each, up to ours."""
    with torch.device("meta"):
        model = LightWAM(config)
    step = random_step(config)
    whole, merged = step.to("meta"), step.with_equal_rows_merged().to("meta")
    rows: list[tuple[str, Losses, Step, tuple[str, ...]]] = [
        ("as published", published_losses, whole, ()),
        ("time once a frame, blocks after the last adapter dropped", _plain_losses, whole, ()),
        ("equal text rows once", _plain_losses, merged, ()),
        ("one sequence: context and its keys and values once, attention by frame", our_losses, merged,
         ("keys", "poolers", "steps", "last")),
        ("cross-attention: values projected, not sums of them", our_losses, merged, ("poolers", "steps", "last")),
        ("poolers folded", our_losses, merged, ("steps", "last")),
        ("steps without weight are not decoded", our_losses, merged, ("last",)),
        ("last block: keys and values alone of the first frame: ours", our_losses, merged, ()),
    ]  # fmt: skip
    for name, losses, inputs, left_out in rows:
        with _without(*left_out):
            yield (name, *count_flops(model, losses, inputs)[:2])


def print_savings(config: LightWAMConfig) -> None:
    published = 0
    print("| with this saving and those above it | forward, GFLOP | backward | both | of published |")
    print("|---|---|---|---|---|")
    for name, forward, backward in count_savings(config):
        published = published or forward + backward
        figures = (x / 1e9 for x in (forward, backward, forward + backward))
        print(
            f"| {name} | " + " | ".join(f"{x:,.1f}" for x in figures) + f" | {(forward + backward) / published:.3f} |"
        )


# Time ----------------------------------------------------------------------------------------------------------------


def small_libero() -> LightWAMConfig:
    """The LIBERO policy with its blocks, tokens and text rows, every width an eighth or so."""
    config = LightWAMConfig.libero()
    lora = replace(config.video_dit.lora or LoRAConfig(layers=(0,)), rank=8, alpha=16.0)
    adapters = replace(config.video_dit.adapters, dim=32)
    widths: dict[str, Any] = {"hidden_dim": 192, "ffn_dim": 1120, "num_heads": 4, "head_dim": 48, "text_dim": 512}
    return replace(
        config,
        video_dit=replace(config.video_dit, **widths, lora=lora, adapters=adapters),
        action_expert=ActionExpertConfig(per_layer_dim=576, trunk_dim=768),
        text=replace(config.text, width=512),
    )


def golden() -> LightWAMConfig:
    """Golden set 1, whose 20 published steps the tests repeat."""
    path = Path(__file__).parents[1] / "tests/data/golden/golden_set1.json"
    return LightWAMConfig.from_published(json.loads(path.read_text()))


SIZES: Mapping[str, Callable[[], LightWAMConfig]] = {
    "golden": golden,
    "nano": LightWAMConfig.nano,
    "small-libero": small_libero,
}


def take_turns(config: LightWAMConfig, samples: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds on the clock and of the CPU of steps of `published` and `ours`, in turns, after two that don't count."""
    torch.manual_seed(0)
    model = LightWAM(config)
    step = random_step(config, samples)
    seconds: dict[str, list[tuple[float, float]]] = {"published": [], "ours": []}
    steps = {name: _train_step(copy.deepcopy(model), published=name == "published") for name in seconds}
    for index in range(rounds + 2):
        for name, train in steps.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            train.step([step.batch], [step.noise], [step.timestep])
            if index >= 2:
                seconds[name].append((time.perf_counter() - began, time.process_time() - began_cpu))
    return seconds


def _train_step(model: LightWAM, published: bool) -> TrainStep:
    if published:
        model.training_losses = lambda *given: published_losses(model, Step(*given))  # type: ignore[method-assign, assignment]
    return TrainStep(
        model, learning_rate=1e-4, weight_decay=0.01, warmup_steps=5, max_steps=10_000, max_grad_norm=1.0,
        fused=not published,
    )  # fmt: skip


def print_turns(name: str, samples: int, rounds: int) -> None:
    seconds = take_turns(SIZES[name](), samples, rounds)
    print(f"{name}, batch {samples}, float32, {torch.get_num_threads()} thread(s), {rounds} rounds, medians:")
    for clock, kind in enumerate(("seconds on the clock", "CPU seconds")):
        theirs, ours = ([taken[clock] for taken in seconds[who]] for who in ("published", "ours"))
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        print(
            f"  {kind}: published {statistics.median(theirs):.3f}, ours {statistics.median(ours):.3f}, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def print_profile(name: str, samples: int) -> None:
    """Where one step of each spends its CPU time."""
    config = SIZES[name]()
    step = random_step(config, samples)
    for published in (True, False):
        torch.manual_seed(0)
        train = _train_step(LightWAM(config), published)
        train.step([step.batch], [step.noise], [step.timestep])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            train.step([step.batch], [step.noise], [step.timestep])
        print("published" if published else "ours")
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=14))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", choices=sorted(SIZES), help="measure steps of this size instead of counting FLOPs")
    parser.add_argument("--batch", type=int, default=1, help="samples of a measured step (1)")
    parser.add_argument("--rounds", type=int, default=9, help="measured steps of each side (9)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--profile", action="store_true", help="with --time: also a table of operations")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.time is None:
        print_savings(LightWAMConfig.libero())
        return
    print_turns(args.time, args.batch, args.rounds)
    if args.profile:
        print_profile(args.time, args.batch)


if __name__ == "__main__":
    main()
