# SPDX-License-Identifier: Apache-2.0
"""`lightwam train policy`: a policy from a recipe, data and caches; the loop is `lightwam.train.trainer`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.config.serialize import dataclass_to_dict
from lightwam.data.dataset import Dataset
from lightwam.data.normalize import read_statistics
from lightwam.errors import ConfigError
from lightwam.identity import Fingerprint
from lightwam.model import WanVAE
from lightwam.model.checkpoint_folder import STATISTICS_FILE, load_checkpoint, part, save_checkpoint
from lightwam.model.context import merge_equal_rows
from lightwam.model.fit import load_exactly
from lightwam.train.curves import require_wandb
from lightwam.train.device import choose_attention, require_compiler
from lightwam.train.distributed import World, use_world
from lightwam.train.fingerprint import dataset_identity, make_fingerprint, tensors_identity
from lightwam.train.inherit import check_init, inherited_statistics
from lightwam.train.loader import Loader, MicroBatch, Order
from lightwam.train.networks import FUTURE, PolicyNetworks
from lightwam.train.policy_data import PolicyData, PolicyInputs, PolicySamples
from lightwam.train.policy_options import RECIPE_FILE, PolicyTrainArgs, run_document
from lightwam.train.recipe import Recipe
from lightwam.train.report import report_parameters
from lightwam.train.rollouts import Simulate, check_instructions, check_rollouts
from lightwam.train.run_folder import RunFolder, check_not_in_use, check_run_folder
from lightwam.train.sharding import frozen_as
from lightwam.train.start import first_networks
from lightwam.train.trainer import Ready, Trainer, on_device
from lightwam.train.vae_path import encode_moments
from lightwam.train.validation import action_errors, draw_actions, future_errors, located_errors, write_details

log = logging.getLogger(__name__)

_NOT_OF_THE_RESULT = ("about", "name", "policy", "saving", "rollouts", "loading.workers", "loading.prefetch",
                      "computing.compile", "computing.checkpointing", "optimizer.fused")  # fmt: skip


class Policy:
    """The subject of a policy's training; see `lightwam.train.trainer.Subject`."""

    label = "train policy"

    def __init__(
        self, recipe: Recipe, data: PolicyData, networks: PolicyNetworks, world: World,
        vae: WanVAE | None = None, vae_weights: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.data, self.networks, self.world = recipe, data, networks, world
        self.vae, self.vae_weights = vae, dict(vae_weights or {})
        schedule, loading = recipe.schedule, recipe.loading
        video_batch = recipe.losses.video_batch
        self.find_unused = video_batch == 0 or (networks.text_encoder is not None and data.texts is not None)
        self.samples = data.samples(data.training, windows=video_batch is None)
        self.order = self._order(self.samples, schedule.batch)
        options: dict[str, Any] = {
            "rank": world.rank, "workers": loading.workers, "prefetch": loading.prefetch,
            "pin": world.device.type == "cuda",
        }  # fmt: skip
        self.loader = Loader(self.samples, self.order, **options)
        self.futures: Loader | None = None
        if video_batch:
            samples = data.samples(data.training, windows=True)
            self.futures = Loader(samples, self._order(samples, video_batch), **options)

    def _order(self, samples: PolicySamples, batch: int) -> Order:
        schedule, lengths = self.recipe.schedule, samples.lengths
        shares = self.recipe.loading.shares
        return Order(lengths, batch, schedule.seed, schedule.accumulation, shares, self.world.size)

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each update, with the samples of the video pass where they are of their own."""
        futures: Iterator[MicroBatch] | None = None
        if self.futures is not None and first < last:
            numbers = self.order.numbers(first).start, self.order.numbers(last - 1).stop
            futures = self.futures.micro_batches(*numbers)
        for batches in self.loader.updates(first, last):
            if self.recipe.losses.video_batch is not None:
                for batch in batches:
                    if futures is not None:
                        batch[FUTURE] = next(futures)
                    else:
                        batch[FUTURE] = {
                            **batch,
                            "action": batch["action"][:0],
                            "video_latents": torch.zeros(0, 1, 2, 1, 1),
                        }
            yield batches

    def ready(self, batch: MicroBatch, generator: torch.Generator) -> Ready:
        """On the device; hidden states, times and noise are drawn on the CPU, so every device gets the same ones."""
        share = self.recipe.losses.state_dropout
        if share:
            hidden = torch.rand(len(batch["proprio"]), 1, generator=generator) < share
            batch = {**batch, "proprio": batch["proprio"].masked_fill(hidden, 0.0)}
        batch = self.placed(batch)
        drawn = self.networks.noise_for(batch, generator)
        if drawn is None:
            return Ready(batch)
        noise, timestep = (tensor.to(self.world.device) for tensor in drawn)
        if self.recipe.computing.precision == "bfloat16":  # as published: the times, too, are rounded
            noise, timestep = noise.bfloat16(), timestep.bfloat16().float()
        return Ready(batch, noise, timestep)

    def placed(self, batch: MicroBatch) -> MicroBatch:
        """On the device, with latents; frames are encoded where there is no cache. Equal text rows are merged before,
        on the CPU, so that a GPU neither copies nor compares them."""
        batch = on_device(self._with_equal_rows_merged(batch), self.world.device)
        for one in (batch, batch.get(FUTURE, {})):
            if "video" in one:
                assert self.vae is not None
                with torch.no_grad():
                    one["video_latents"] = self.vae.normalize(encode_moments(self.vae, one.pop("video"))[0]).float()
            if self.recipe.computing.precision == "bfloat16" and "video_latents" in one:
                one["video_latents"] = one["video_latents"].bfloat16()
        return batch

    def _with_equal_rows_merged(self, batch: MicroBatch) -> MicroBatch:
        """One row and a count for the equal rows after each text, unless LoRA dropout treats each for itself."""
        lora = self.networks.config.video_dit.lora
        if "context" not in batch or (lora is not None and lora.dropout):
            return batch
        context, counts = merge_equal_rows(batch["context"], batch["context_mask"])
        merged = {**batch, "context": context, "context_mask": counts}
        return {**merged, FUTURE: self._with_equal_rows_merged(batch[FUTURE])} if FUTURE in batch else merged

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Errors on the held-out episodes; nothing where none is held out. Details go to validation/."""
        if not self.data.held_out:
            return {}
        networks, saving = self.networks, self.recipe.saving

        def ready(batch: MicroBatch) -> MicroBatch:
            return networks.with_context(self.placed(batch))

        samples = self.data.samples(self.data.held_out, windows=False)
        figures, by_step, (predicted, true) = action_errors(networks, samples, ready)
        details: dict[str, Any] = {"step": step, "action_l1_by_step": by_step}
        if networks.localiser is not None:
            figures |= located_errors(networks, samples, ready, torch.from_numpy(self.data.located[1]))
        if saving.video_samples and self.vae is not None:
            windows = self.data.samples(self.data.held_out, windows=True)
            psnr = future_errors(networks, windows, ready, self.vae, saving.video_samples, saving.sampling_steps)
            details["future_psnr_db_by_frame"] = psnr
            figures["held_out/future_psnr_db"] = sum(psnr[1:]) / max(1, len(psnr) - 1)
        if not self.world.is_first:
            return figures
        write_details(folder / "validation" / f"step_{step:08d}.json", {**details, "figures": figures})
        names = [dimension.name for dimension in networks.config.robot.action]
        draw_actions(folder / "validation" / "actions.png", predicted, true, names, by_step)
        return figures

    def write_checkpoint(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Policy, text encoder and VAE, statistics, and the instructions' rows where they come from a text cache."""
        kept = {name.removeprefix("policy."): value for name, value in weights.items() if "localiser." not in name}
        kept |= {f"vae.{name}": value for name, value in self.vae_weights.items()}
        save_checkpoint(folder, self.networks.config, kept, self.data.statistics, self._instructions())

    def _instructions(self) -> dict[str, Tensor] | None:
        if self.data.texts is None:
            return None
        template = self.networks.config.text.prompt_template
        rows = {}
        for task in self.data.tasks:
            context, _ = self.data.texts.context(template.format(task=task))
            used = int((context != 0).any(-1).sum())
            rows[task] = context[:used].contiguous()
        return rows


def train_policy(args: PolicyTrainArgs, simulate: Simulate | None = None) -> None:
    """Train by the arguments of the command line, in one process or those that torchrun started.

    simulate: makes the trials of `--rollout-every`.
    """
    recipe = args.resolved()
    check_run_folder(args.out, "policy")
    if recipe.saving.wandb is not None:
        require_wandb(recipe.saving.wandb)
    with use_world(args.machine.device, args.machine.timeout) as world:
        world.on_first(lambda: check_not_in_use(args.out))
        wanted = world.on_first(lambda: check_rollouts(recipe.rollouts, simulate, recipe.policy))
        subject, recipe = build_policy(recipe, args.inputs, world, args.out, args.allow_changed)
        if recipe.policy.text.kind != "hashed_words":
            check_instructions(wanted, subject.data.tasks)
        fingerprint = policy_fingerprint(recipe, args.inputs, subject)
        with RunFolder(
            args.out, "policy", fingerprint, allow_changed=args.allow_changed, keep=recipe.saving.keep, world=world
        ) as folder:
            trainer = Trainer(subject, recipe, folder, world, args.machine.sharding, simulate)
            if world.is_first:
                folder.write_json(RECIPE_FILE, run_document(recipe, args))
                folder.write_json("parameter_report.json", report_parameters(subject.networks, trainer.step))
            trainer.run()


def build_policy(
    recipe: Recipe, inputs: PolicyInputs, world: World, out: Path, allow_changed: Iterable[str] = ()
) -> tuple[Policy, Recipe]:
    """Data, first weights and the subject; the recipe with the VAE's sizes. Logs what is kept, new and frozen.

    allow_changed: names of `lightwam.train.inherit.check_init`.
    """
    check_validation(recipe)
    if recipe.computing.compile:
        require_compiler(world.device)
    vae, vae_weights, config = _vae(inputs, recipe.policy)
    if inputs.init is not None:
        check_init(config, inputs.init, vae=vae_weights, statistics=inputs.statistics, allowed=allow_changed)
    recipe = replace(recipe, policy=config)
    seed, device = recipe.schedule.seed, world.device
    attention = choose_attention(recipe.computing.attention, device)
    if vae is not None:
        vae.to(device)
    data = _data(recipe, inputs, vae, out, (world.rank, world.size))
    world.barrier()  # all of them fill the cache
    located = len(data.located[0])
    start = first_networks(
        config, seed, located, recipe.losses.localisation_weight, inputs.init, inputs.random_backbone
    )
    log.info("first weights%s:\n%s", f" from {inputs.init}" if inputs.init else "", start.table())
    networks = start.networks
    networks.policy.set_attention(attention)
    networks.policy.video_dit.checkpointing = recipe.computing.checkpointing
    _set_precision(networks, recipe)
    networks.to(device)  # the random start is the CPU's, on every device
    if recipe.computing.compile:
        for block in networks.policy.video_dit.blocks:
            block.compile()
    return Policy(recipe, data, networks, world, vae, vae_weights), recipe


def check_validation(recipe: Recipe) -> None:
    """Raise `ConfigError` where validation is asked for and nothing is held out."""
    if recipe.saving.eval_every and not recipe.loading.held_out:
        raise ConfigError(
            f"--eval-every is {recipe.saving.eval_every} and nothing is held out: give --held-out, or --eval-every 0"
        )


def _data(
    recipe: Recipe, inputs: PolicyInputs, vae: WanVAE | None, out: Path, part_of_work: tuple[int, int]
) -> PolicyData:
    own, earlier = out / "checkpoint" / STATISTICS_FILE, None
    if own.exists():
        earlier = read_statistics(own)
    elif inputs.init is not None and inputs.statistics is None:
        earlier = inherited_statistics(inputs.init, recipe.policy)
    return PolicyData(
        inputs, recipe.policy, recipe.loading, recipe.losses, vae, earlier, recipe.augmentation, recipe.schedule.seed,
        part_of_work,
    )  # fmt: skip


def _vae(inputs: PolicyInputs, config: LightWAMConfig) -> tuple[WanVAE | None, dict[str, Tensor], LightWAMConfig]:
    if inputs.vae is None:
        return None, {}, config
    vae_config, weights = load_checkpoint(inputs.vae)
    config = dataclasses.replace(config, vae=vae_config.vae)
    own = part(weights, "vae.")
    vae = WanVAE(config.vae)
    load_exactly(vae, own, f"VAE checkpoint {inputs.vae}")
    return vae.requires_grad_(False), own, config


def _set_precision(networks: PolicyNetworks, recipe: Recipe) -> None:
    """The types of the weights."""
    computing, dit = recipe.computing, networks.policy.video_dit
    if computing.precision == "float32" and computing.compact:
        networks.float()
        frozen_as(dit.blocks, torch.bfloat16)
        dit.widening = True
        return
    if recipe.computing.precision == "bfloat16":
        networks.bfloat16()
    else:
        frozen_as(networks, torch.float32 if recipe.computing.precision == "float32" else torch.bfloat16)


def policy_fingerprint(recipe: Recipe, inputs: PolicyInputs, subject: Policy) -> Fingerprint:
    """What the run's result depends on: recipe, policy, data, VAE, code."""
    data = subject.data
    statistics = json.dumps(data.statistics, sort_keys=True)
    identify = _rows_identity if inputs.latents else dataset_identity
    return make_fingerprint(
        seed=recipe.schedule.seed,
        recipe={**dataclass_to_dict(recipe), "statistics": hashlib.sha256(statistics.encode()).hexdigest()[:16]},
        config=recipe.policy,
        data=[identify(dataset, recipe.policy.cameras) for dataset in data.datasets],
        vae=tensors_identity(subject.vae_weights) if subject.vae_weights else None,
        frozen=_frozen_identity(subject) if subject.world.is_first else None,
        leave_out=_NOT_OF_THE_RESULT,
    )


def _frozen_identity(subject: Policy) -> str | None:
    """Of the weights that no save changes: they come from `--init` each time that a run goes on."""
    frozen = {name: p for name, p in subject.networks.named_parameters() if not p.requires_grad}
    return tensors_identity(frozen) if frozen else None


def _rows_identity(dataset: Dataset, layout: object) -> str:
    """Of a data set whose latents are in a published cache: its videos need not be there."""
    digest = hashlib.sha256(dataset.state.tobytes())
    digest.update(dataset.action.tobytes())
    digest.update("\0".join(episode.task for episode in dataset.episodes).encode())
    return digest.hexdigest()[:16]
