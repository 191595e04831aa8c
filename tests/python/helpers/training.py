# SPDX-License-Identifier: Apache-2.0
"""A tiny policy, its data and its VAE: what short trainings start from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from helpers.dataset_fixture import write_v3
from helpers.golden_data import LEROBOT, libero
from helpers.robots import with_square_cameras
from lightwam.cli import train
from lightwam.config import AdapterConfig, LightWAMConfig, LoRAConfig
from lightwam.train.options import FrameInputs, VAETrainArgs, flat_options
from lightwam.train.policy_data import PolicyInputs
from lightwam.train.policy_options import PolicyTrainArgs

Args = TypeVar("Args")


def tiny_config() -> LightWAMConfig:
    """The nano policy made tiny: small canvas, two blocks, few channels."""
    nano = LightWAMConfig.nano()
    dit = dataclasses.replace(
        nano.video_dit, hidden_dim=48, ffn_dim=64, num_heads=2, head_dim=24, num_layers=2, text_dim=16,
        adapters=AdapterConfig(layers=(0, 1), dim=8),
    )  # fmt: skip
    tiny = dataclasses.replace(
        nano, video_dit=dit, vae=dataclasses.replace(nano.vae, base_dim=4),
        text=dataclasses.replace(nano.text, width=16, buckets=64),
        action_expert=dataclasses.replace(nano.action_expert, per_layer_dim=24, trunk_dim=32, num_queries=4),
    )  # fmt: skip
    return with_square_cameras(tiny, 32)


def changed(args: Args, **changes: Any) -> Args:
    """Options of a trainer with some replaced, whichever group they are in."""
    assert set(changes) <= {name for name, _ in flat_options(args)} | {"inputs"}, changes
    new: dict[str, Any] = {}
    for field in dataclasses.fields(args):  # type: ignore[arg-type]
        value = getattr(args, field.name)
        if field.name in changes:
            new[field.name] = changes[field.name]
        elif dataclasses.is_dataclass(value):
            inside = {name for name, _ in flat_options(value)} & set(changes)
            new[field.name] = changed(value, **{name: changes[name] for name in inside})
    return dataclasses.replace(args, **new)  # type: ignore[type-var]


def vae_args(root: Path, out: Path, **changes: Any) -> VAETrainArgs:
    """Three steps, of which the last is on clips."""
    inputs = FrameInputs(data=(root / "data",), cache=root / "cache", config=str(root / "tiny.json"))
    short = {"steps": 3, "batch": 2, "clip_every": 3, "clip_batch": 1, "held_out": 0.3, "save_every": 3}
    return changed(VAETrainArgs(inputs=inputs, out=out), **{**short, **changes})


def policy_args(root: Path, out: Path, **changes: Any) -> PolicyTrainArgs:
    """Four steps of the recipe nano from what `fill` made."""
    inputs = PolicyInputs(data=(root / "data",), cache=root / "cache", vae=root / "vae/checkpoint", check=False)
    config = str(root / "tiny.json")
    groups = PolicyTrainArgs.defaults({"config": config})
    short = {"steps": 4, "batch": 2, "video_batch": 1, "warmup_steps": 2, "held_out": 0.3, "log_every": 1,
             "save_every": 2, "future_stride": 2}  # fmt: skip
    inside = {name: changes.pop(name) for name in [f.name for f in dataclasses.fields(inputs)] if name in changes}
    inputs = dataclasses.replace(inputs, **inside)
    return changed(PolicyTrainArgs(inputs=inputs, out=out, config=config, **groups), **{**short, **changes})


def fill(root: Path) -> None:
    """data/, tiny.json, cache/ and vae/checkpoint in one folder."""
    write_v3(root / "data")
    (root / "tiny.json").write_text(json.dumps(tiny_config().to_dict()))
    assert train.main(vae_args(root, root / "vae")) == 0


def published_setup(out: Path, latents: Path, **changes: Any) -> PolicyTrainArgs:
    """Two steps of the recipe libero_goal on the golden LeRobot set and its published caches, the networks made tiny.

    LoRA, adapters, head and expert train on a frozen (random) backbone, as at full size.
    """
    config = libero(16, text_width=32, spatial_downsample=1)
    lora = LoRAConfig(layers=(0, 1), rank=2, alpha=4.0)
    dit = dataclasses.replace(
        config.video_dit, hidden_dim=48, ffn_dim=64, num_heads=2, head_dim=24, num_layers=2, freq_dim=16, lora=lora,
        adapters=AdapterConfig(layers=(0, 1), dim=8),
    )  # fmt: skip
    expert = dataclasses.replace(config.action_expert, per_layer_dim=24, trunk_dim=32, num_queries=4)
    config = dataclasses.replace(config, video_dit=dit, action_expert=expert)
    file = out.with_name(out.name + "-config.json")
    file.write_text(json.dumps(config.to_dict()))
    inputs = PolicyInputs(
        data=(LEROBOT / "libero_tiny",), latents=(latents,), texts=LEROBOT / "text_cache",
        statistics=LEROBOT / "libero_tiny_dataset_stats.json", random_backbone=True, check=False,
    )  # fmt: skip
    given = {"recipe": "libero_goal", "config": str(file)}
    short = {"steps": 2, "batch": 2, "warmup_steps": 1, "workers": 0, "log_every": 1}
    args = PolicyTrainArgs(inputs=inputs, out=out, **given, **PolicyTrainArgs.defaults(given))
    return changed(args, **{**short, **changes})
