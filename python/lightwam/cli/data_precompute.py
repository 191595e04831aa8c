# SPDX-License-Identifier: Apache-2.0
"""`lightwam data precompute`: latents and text rows of data sets, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightwam.cli.parse import Positional
from lightwam.config.augmentation import Augmentation
from lightwam.config.selection import Selection

if TYPE_CHECKING:
    from lightwam.config import LightWAMConfig
    from lightwam.data.latent_store import Encode, LatentStore
    from lightwam.train.precompute import Job


@dataclass(frozen=True, kw_only=True)
class Windows(Selection):
    """Which latents."""

    sample_stride: int = 1
    """Use every so many-th control step."""
    future_stride: int = 1
    """Whole windows of every so many rows only; the others get the latent of their own frame."""
    resample: Literal["refuse", "stride", "interpolate"] = "refuse"
    """What is done about data at another rate than the robot's: nothing, rows are left out, or any rate is made."""


@dataclass(frozen=True, kw_only=True)
class Variants(Augmentation):
    """Photometric augmentation: several variants of each window, of which training takes one an epoch."""

    variants: int = 1
    """How many; the first is plain."""
    augmentation_seed: int = 42
    """The variants follow from it; training finds those of its own `--seed`."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Rows of the instructions, for policies with umT5 (a text cache as the published code has it)."""

    texts: Path | None = None
    """Folder of the text cache; what is missing is added."""
    text_encoder: Path | None = None
    """The umT5 encoder (official .pth, or a transformers folder)."""
    tokenizer: Path | None = None
    """Folder of umT5's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How it is computed."""

    processes: int = 1
    """Processes on this machine. Under torchrun (one or many machines) leave it at 1: each rank takes its part."""
    part: tuple[int, int] | None = None
    """Which of how many writers this is (0 4), for machines without torchrun. They share the folder alone."""
    batch: int = 16
    """Windows that are encoded at once."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the VAE. It is a part of the cache's names."""
    device: str = "cpu"
    """cpu, cuda (under torchrun the rank's own) or cuda:N."""
    threads: int = 1
    """CPU threads of PyTorch in each process."""
    verify: bool = False
    """Compare every file with its checksum at the end, and compute damaged ones again."""


@dataclass(frozen=True, kw_only=True)
class PrecomputeArgs:
    """Compute latents and text rows of data sets; a run that was stopped goes on where it was."""

    defaults_follow: ClassVar[tuple[str, ...]] = ("recipe",)

    data: Positional[tuple[Path, ...]]
    """Folders of data sets: LeRobot, real-robot HDF5, RoboTwin."""
    config: str | None = None
    """Preset (libero, robotwin, nano) or JSON file: a configuration, or a robot on top of one. Default: the policy of
    --recipe; one of the two must be given."""
    recipe: str | None = None
    """A recipe of `lightwam train policy`, or its file: what that training reads of --cache becomes the default of the
    options below (strides, selection, augmentation, variants, seed)."""
    vae: Path | None = None
    """Checkpoint folder of the VAE; its VAE configuration replaces that of --config. Without it: texts alone."""
    cache: Path | None = None
    """Folder of the latents (with --vae)."""
    windows: Windows = Windows()
    variants: Variants = Variants()
    texts: Texts = Texts()
    work: Work = Work()

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The groups as the chosen recipe has them."""
        if given.get("recipe") is None:
            return {}
        from lightwam.train.recipe import read_recipe

        recipe = read_recipe(given["recipe"])
        loading, how = recipe.loading, recipe.augmentation
        windows = {
            field.name: getattr(loading, field.name) for field in fields(Windows) if hasattr(loading, field.name)
        }
        augmented = {field.name: getattr(how, field.name) for field in fields(Augmentation)}
        variants = 1 if how.changes_nothing else loading.variants
        return {
            "windows": Windows(**windows),
            "variants": Variants(**augmented, variants=variants, augmentation_seed=recipe.schedule.seed),
        }


def main(args: PrecomputeArgs) -> int:
    """Compute what is missing. Raises `ConfigError`, `DataError`, `CheckpointError`."""
    check(args)
    if args.texts.texts is not None:
        _write_texts(args, args.texts.texts)
    if args.vae is not None:
        _fill(args)
    return 0


def check(args: PrecomputeArgs) -> None:
    """Raises `ConfigError` for options that do not go together."""
    from lightwam.errors import ConfigError

    if args.config is None and args.recipe is None:
        raise ConfigError("--config and --recipe: give one of them")
    if (args.vae is None) != (args.cache is None):
        raise ConfigError("--vae and --cache: give both, or neither")
    texts = (args.texts.texts, args.texts.text_encoder, args.texts.tokenizer)
    if len({given is None for given in texts}) > 1:
        raise ConfigError("--texts, --text-encoder and --tokenizer: give all three, or none")
    if args.vae is None and args.texts.texts is None:
        raise ConfigError("there is nothing to compute: give --vae and --cache, or --texts with its encoder")
    least = {"processes": args.work.processes, "batch": args.work.batch, "threads": args.work.threads}
    for name, value in least.items():
        if value < 1:
            raise ConfigError(f"--{name} is {value}: use at least 1")
    if args.work.processes > 1 and args.work.device != "cpu":
        raise ConfigError("--processes is for the CPU: start one process a GPU with torchrun")


def _fill(args: PrecomputeArgs) -> None:
    """Latents of all data sets."""
    from lightwam.errors import DataError
    from lightwam.train.precompute import jobs_of, part_of_environment, precompute, repair, rows_of

    stores, encode = _prepared(args)
    part = args.work.part or part_of_environment()

    def fill() -> int:
        if args.work.processes == 1:
            return precompute(stores, encode, part, args.work.batch, show=part[0] == 0)
        jobs = jobs_of(stores, part)
        return _in_processes(args, stores, jobs, rows_of(stores, jobs))

    written = fill()
    rows = sum(len(store) for store in stores)
    print(f"{args.cache}: {written} files written, {rows} rows of {len(stores)} data sets are there")
    if args.work.verify:
        damaged = repair(stores, fill)
        print(f"{args.cache}: verified, {damaged} damaged files were computed again")
    if any(store.missing() for store in stores):
        raise DataError(f"latent cache {args.cache} still lacks files: repeat the command")


def _in_processes(args: PrecomputeArgs, stores: Sequence[LatentStore], jobs: Sequence[Job], total: int) -> int:
    from lightwam.progress import rate_bar
    from lightwam.workers import run_jobs

    written = 0
    assert args.cache is not None
    with rate_bar("encode latents", total, "rows", show=bool(total)) as advance:
        for (which, positions), files in run_jobs(
            partial(_job, args), jobs, args.work.processes, unfinished=args.cache
        ):
            written += files
            advance(sum(len(stores[which].samples_of(p)) for p in positions) * stores[which].options.variants)
    return written


def _job(args: PrecomputeArgs, job: Job) -> int:
    """In a worker process: data sets and the VAE are opened once."""
    stores, encode = _kept(args)
    return stores[job[0]].build(encode, job[1], args.work.batch)


@lru_cache(maxsize=1)
def _kept(args: PrecomputeArgs) -> tuple[list[LatentStore], Encode]:
    return _prepared(args)


def _prepared(args: PrecomputeArgs) -> tuple[list[LatentStore], Encode]:
    import torch

    from lightwam.data.latent_store import LatentOptions, LatentStore
    from lightwam.data.sources import open_datasets
    from lightwam.model import WanVAE
    from lightwam.model.checkpoint_folder import load_checkpoint, part
    from lightwam.model.fit import load_exactly
    from lightwam.train.device import use_device
    from lightwam.train.precompute import vae_encoder, vae_fingerprint

    assert args.vae is not None and args.cache is not None
    torch.set_num_threads(args.work.threads)
    vae_config, weights = load_checkpoint(args.vae)
    config = replace(_config(args), vae=vae_config.vae)
    vae = WanVAE(config.vae)
    load_exactly(vae, part(weights, "vae."), f"VAE checkpoint {args.vae}")
    vae.to(use_device(_device(args.work.device)))
    how, windows = args.variants, args.windows
    augmentation = Augmentation(**{field.name: getattr(how, field.name) for field in fields(Augmentation)})
    options = LatentOptions(
        sample_stride=windows.sample_stride, future_stride=windows.future_stride, variants=how.variants,
        augmentation=augmentation if how.variants > 1 else None, seed=how.augmentation_seed,
    )  # fmt: skip
    fingerprint = vae_fingerprint(vae, args.work.precision)
    datasets = open_datasets(args.data, config, windows, windows.resample, windows.sample_stride)
    stores = [LatentStore(dataset, config, args.cache, fingerprint, options) for dataset in datasets]
    return stores, vae_encoder(vae, args.work.precision)


def _config(args: PrecomputeArgs) -> LightWAMConfig:
    from lightwam.config import read_config

    if args.config is not None:
        return read_config(args.config)
    from lightwam.train.recipe import read_recipe

    assert args.recipe is not None
    return read_recipe(args.recipe).policy


def _device(name: str) -> str:
    """Under torchrun `cuda` is the rank's own GPU."""
    import os

    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def _write_texts(args: PrecomputeArgs, folder: Path) -> None:
    from lightwam.convert.instructions import write_text_cache
    from lightwam.data.samples import english
    from lightwam.data.sources import open_dataset, select

    config = _config(args)
    opened = select([open_dataset(path, config.robot) for path in args.data], args.windows)
    tasks = dict.fromkeys(english(episode.task) for dataset in opened for episode in dataset.episodes)
    assert args.texts.text_encoder is not None and args.texts.tokenizer is not None
    written = write_text_cache(config, folder, list(tasks), args.texts.text_encoder, args.texts.tokenizer)
    print(f"{folder}: {written} texts written, {len(tasks)} are there")
