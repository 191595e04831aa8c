# SPDX-License-Identifier: Apache-2.0
"""The one trainer of policies on tiny data: exact resumes, checkpoints, published caches, starts, refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from helpers.dataset_fixture import TASK, write_v3
from helpers.golden_data import LEROBOT
from helpers.training import changed, policy_args, published_setup, tiny_config
from lightwam.cli import train
from lightwam.data.normalize import read_statistics
from lightwam.errors import CheckpointError, ConfigError, DataError, TrainingError
from lightwam.model.attention import AttentionMethod
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train.curves import Curves
from lightwam.train.distributed import World
from lightwam.train.networks import PolicyNetworks
from lightwam.train.policy import Policy, build_policy
from lightwam.train.policy_options import PolicyTrainArgs
from lightwam.train.recipe import Recipe, read_recipe
from lightwam.train.run_folder import RunFolder
from lightwam.train.start import first_networks
from lightwam.train.state import TrainingState
from lightwam.train.trainer import Trainer, generator_of, on_device


def built(args: PolicyTrainArgs) -> tuple[Policy, Recipe]:
    return build_policy(args.resolved(), args.inputs, World(), args.out)


def state_of(run: Path, step: int) -> TrainingState:
    return TrainingState.read(run / f"saves/step_{step:08d}/state.pt")


def test_a_stopped_run_goes_on_exactly_with_other_workers(folders: Path, whole: Path, tmp_path: Path) -> None:
    assert train.main(policy_args(folders, tmp_path / "run", stop_after=2)) == 0
    assert train.main(policy_args(folders, tmp_path / "run", workers=1)) == 0
    one, two = state_of(whole, 4), state_of(tmp_path / "run", 4)
    assert one.average is not None and two.average is not None
    for part in ((one.weights, two.weights), (one.average, two.average)):
        assert list(part[0]) == list(part[1])
        for name in part[0]:
            assert torch.equal(part[0][name], part[1][name]), name
    for name, moments in one.optimizer.items():
        assert all(torch.equal(moments[key], two.optimizer[name][key]) for key in moments), name
    assert one.history["loss"] == two.history["loss"] and len(one.history["loss"]) == 4


def test_a_run_leaves_a_checkpoint_and_its_recipe(whole: Path) -> None:
    config, weights = load_checkpoint(whole / "checkpoint")
    assert {name.split(".")[0] for name in weights} == {
        "mot", "state_fusion_action_expert", "proprio_encoder", "text_encoder", "vae",
    }  # fmt: skip
    average = state_of(whole, 4).average
    assert average is not None
    name = "mot.mixtures.video.blocks.0.ffn.0.weight"
    assert torch.equal(weights[name], average[f"policy.{name}"])
    statistics = read_statistics(whole / "checkpoint/stats.json")
    assert statistics["num_episodes"] == 3 and statistics["instructions"] == [TASK]
    recipe = read_recipe(str(whole / "recipe.json"))
    assert recipe.policy == config and recipe.schedule.steps == 4 and recipe.losses.video_batch == 1
    report = json.loads((whole / "parameter_report.json").read_text())
    assert report["trained_parameters"] == sum(p.numel() for p in state_of(whole, 4).weights.values())
    details = json.loads((whole / "validation/step_00000004.json").read_text())
    assert len(details["action_l1_by_step"]) == config.horizon and details["figures"]["held_out/action_mse"] > 0
    assert (whole / "losses.png").stat().st_size > 0 and (whole / "validation/actions.png").stat().st_size > 0


def test_without_a_cache_frames_are_encoded_at_every_step(folders: Path, tmp_path: Path) -> None:
    made = []
    for cache in (folders / "cache", None):
        subject, _ = built(policy_args(folders, tmp_path, cache=cache, video_batch=None))
        (batch,) = next(subject.updates(0, 1))
        made.append(subject.ready(batch, generator_of(0)).batch)
        assert ("video" in batch) == (cache is None)
    torch.testing.assert_close(made[0]["video_latents"], made[1]["video_latents"], atol=2e-3, rtol=2e-3)
    assert torch.equal(made[0]["action"], made[1]["action"])


def test_losses_are_the_parts_times_their_weights(folders: Path, tmp_path: Path) -> None:
    """As nano's own trainer had them before: actions, futures of their own samples, objects, in this sum."""
    subject, recipe = built(policy_args(folders, tmp_path))
    networks, (batch,) = subject.networks, next(subject.updates(0, 1))
    ready = subject.ready(batch, generator_of(1))
    losses = networks(ready.batch, ready.noise, ready.timestep)
    rows, loss = networks.with_context(ready.batch), recipe.policy.loss
    action, output = networks.policy.action_loss(rows)
    video = networks.policy.video_loss(networks.with_context(batch["future"]), ready.noise, ready.timestep)
    located = networks.locate(output)
    assert located is not None and len(batch["future"]["action"]) == 1 and len(batch["action"]) == 2
    error = F.smooth_l1_loss(located, ready.batch["located"], beta=0.1)
    torch.testing.assert_close(losses["loss_action"], action)
    torch.testing.assert_close(losses["loss_video"], loss.lambda_video * video)
    torch.testing.assert_close(losses["loss_localisation"], 0.3 * error)
    torch.testing.assert_close(losses["loss"], action + loss.lambda_video * video + 0.3 * error)


def test_states_are_hidden_and_noise_drawn_by_update_alone(folders: Path, tmp_path: Path) -> None:
    subject, _ = built(policy_args(folders, tmp_path, state_dropout=0.5, batch=16))
    (batch,) = next(subject.updates(0, 1))
    one, two, other = (subject.ready(batch, generator_of(7, n)) for n in (1, 1, 2))
    assert torch.equal(one.batch["proprio"], two.batch["proprio"]) and torch.equal(one.noise, two.noise)  # type: ignore[arg-type]
    assert not torch.equal(one.noise, other.noise)  # type: ignore[arg-type]
    hidden = (one.batch["proprio"] == 0).all(-1)
    assert 0 < int(hidden.sum()) < len(hidden)
    kept = ~hidden
    assert torch.equal(one.batch["proprio"][kept], batch["proprio"][kept])


@pytest.mark.parametrize(("kind", "precision"), [("sharded_v1", "bfloat16"), ("episode_packed_v1", "autocast")])
def test_published_caches_train_a_frozen_backbone(kind: str, precision: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": precision, "checkpointing": True, "fused": precision == "bfloat16"}
    args = published_setup(tmp_path / "run", LEROBOT / f"latents_{kind}", **options)
    assert train.main(args) == 0
    _, weights = load_checkpoint(tmp_path / "run/checkpoint")
    state = state_of(tmp_path / "run", 2)
    frozen, trained = "mot.mixtures.video.blocks.0.ffn.0.weight", "mot.mixtures.video.wam_adapters.0.down_proj.weight"
    assert weights[frozen].dtype == torch.bfloat16 and weights[trained].dtype == torch.float32
    assert f"policy.{frozen}" not in state.weights and f"policy.{frozen}" not in state.optimizer
    assert torch.equal(weights[trained], state.weights[f"policy.{trained}"])
    assert {name for name, _ in state.history.items()} >= {"loss", "loss_video", "loss_action", "grad_norm", "lr"}
    assert [round(rate / 2e-4, 6) for _, rate in state.history["lr"]] == [1.0, 1.0]
    instructions = sorted(p.name for p in (tmp_path / "run/checkpoint").iterdir())
    assert "instructions.safetensors" in instructions


def test_equal_text_rows_are_merged_on_the_cpu(tmp_path: Path) -> None:
    args = published_setup(tmp_path / "run", LEROBOT / "latents_sharded_v1", precision="float32")
    subject, _ = built(args)
    (batch,), policy = next(subject.updates(0, 1)), subject.networks.policy
    ready = subject.ready(batch, generator_of(0))
    rows, counts = ready.batch["context"].shape[1], ready.batch["context_mask"]
    assert rows < batch["context"].shape[1] == 128 and counts.sum(1).tolist() == [128, 128]
    whole = {**ready.batch, "context": batch["context"], "context_mask": batch["context_mask"]}
    merged, plain = (policy.training_losses(b, ready.noise, ready.timestep) for b in (ready.batch, whole))
    torch.testing.assert_close(merged, plain)
    lora = dataclasses.replace(policy.config.video_dit.lora, dropout=0.1)  # type: ignore[type-var]
    policy.config = dataclasses.replace(
        policy.config, video_dit=dataclasses.replace(policy.config.video_dit, lora=lora)
    )
    assert subject.ready(batch, generator_of(0)).batch["context_mask"].dtype == torch.bool


def test_compact_weights_change_nothing_but_their_rounding(tmp_path: Path) -> None:
    args = published_setup(tmp_path / "run", LEROBOT / "latents_sharded_v1", precision="float32", compact=True)
    subject, _ = built(args)
    policy, (batch,) = subject.networks.policy, next(subject.updates(0, 1))
    blocks = policy.video_dit.blocks
    assert {p.dtype for p in blocks.parameters() if not p.requires_grad} == {torch.bfloat16}
    ready = subject.ready(batch, generator_of(0))
    found = {}
    for compact in (True, False):
        if not compact:
            blocks.float()
        policy.video_dit.widening = policy.video_dit.checkpointing = compact
        policy.zero_grad()
        loss = subject.networks(ready.batch, ready.noise, ready.timestep)["loss"]
        loss.backward()
        found[compact] = [loss.detach(), *(p.grad for p in policy.parameters() if p.grad is not None)]
    assert all(torch.equal(one, two) for one, two in zip(*found.values(), strict=True)) and len(found[True]) > 50


def test_curves_reach_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = SimpleNamespace(
        id="r7", log=lambda values, step: seen.append((step, values)), finish=lambda: seen.append("end")
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: seen.append(options) or run))
    curves = Curves(tmp_path, {}, wandb="mine")
    curves.add(3, {"loss": 1.0})
    curves.close()
    assert seen[0]["project"] == "mine" and seen[1:] == [(3, {"loss": 1.0}), "end"]
    Curves(tmp_path, {}, wandb="mine").close()
    assert seen[0]["id"] is None and seen[3]["id"] == "r7"  # goes on where the first one was
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--wandb mine: the module 'wandb' is not installed"):
        Curves(tmp_path, {}, wandb="mine")


def test_a_cache_of_the_training_split_alone_cannot_validate(tmp_path: Path) -> None:
    args = published_setup(tmp_path / "run", LEROBOT / "latents_single_file_v1", held_out=0.34, eval_every=1)
    with pytest.raises(DataError, match="no held-out samples"):
        built(args)
    whole_set = changed(args, eval_every=1)
    inputs = dataclasses.replace(args.inputs, latents=(LEROBOT / "latents_sharded_v1",))
    subject, _ = built(dataclasses.replace(whole_set, inputs=inputs))
    (training,), (held_out,) = subject.data.training, subject.data.held_out
    rows = [65 - len(held_out.samples), len(held_out.samples)]
    assert len(training.samples) == rows[0] == 17
    assert training.store is not None and held_out.store is not None
    source = subject.data.datasets[0]
    assert source.episodes[2].start == 48  # training is episode 2, whose first sample is the cache's 48th
    from lightwam.data.published_caches import load_published

    index = load_published(LEROBOT / "latents_sharded_v1/index.pt")
    shard = load_published(LEROBOT / "latents_sharded_v1" / index["shard_paths"][int(index["sample_to_shard"][48])])
    expected = shard["video_latents"][int(index["sample_to_offset"][48])]
    assert torch.equal(training.store.latents(0), expected)


def test_training_goes_on_from_a_checkpoint(whole: Path, folders: Path, tmp_path: Path) -> None:
    subject, _ = built(policy_args(folders, tmp_path, init=whole / "checkpoint"))
    _, weights = load_checkpoint(whole / "checkpoint")
    for name, value in subject.networks.weights().items():
        assert torch.equal(value, weights[name]), name


def test_another_robot_keeps_what_fits(whole: Path) -> None:
    config = tiny_config()
    robot = dataclasses.replace(config.robot, state=config.robot.state[:6])
    start = first_networks(config.with_robot(robot), 0, 0, 0.0, whole / "checkpoint")
    assert start.origin["policy.proprio_encoder.weight"] == "new, was [16, 8]"
    assert start.origin["policy.mot.mixtures.video.blocks.0.ffn.0.weight"] == "kept"
    assert "proprio encoder  new, was [16, 8]  trained" in start.table()


def test_a_frozen_backbone_needs_weights(tmp_path: Path) -> None:
    args = published_setup(tmp_path / "run", LEROBOT / "latents_sharded_v1")
    inputs = dataclasses.replace(args.inputs, random_backbone=False)
    with pytest.raises(CheckpointError, match="frozen backbone of libero has no weights, no --init is given"):
        built(dataclasses.replace(args, inputs=inputs))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": ()}, DataError, "no data set is given"),
        ({"vae": None}, ConfigError, "neither --vae nor --latents"),
        ({"latents": (Path("a"), Path("b"))}, ConfigError, "--latents has 2 folders for 1 data sets"),
        ({"eval_every": 5, "held_out": 0.0}, ConfigError, "nothing is held out"),
        ({"shares": (1.0, 2.0)}, ConfigError, "shares are .* for 1 data sets"),
        ({"episodes": ("0", "1")}, ConfigError, "--episodes has 2 lists for 1 data sets"),
        ({"episodes": ("7",)}, DataError, "has no episodes 7"),
        ({"tasks": ("sing",)}, DataError, "has the task 'sing'"),
        ({"latents": (Path("a"),), "max_episodes": 1}, ConfigError, "--max-episodes out, or give --vae"),
        ({"held_out": 0.9}, DataError, "none is left to train on"),
        ({"vae": Path("nowhere")}, CheckpointError, "train it first"),
        ({"brightness": 0.1, "variants": 1}, ConfigError, "use at least 2"),
    ],
)
def test_what_cannot_train_is_refused_by_name(
    folders: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        built(policy_args(folders, tmp_path, **changes))


def test_data_of_another_robot_is_refused(folders: Path, tmp_path: Path) -> None:
    other = write_v3(tmp_path / "set", lengths=(3,), action_width=6)
    with pytest.raises(DataError, match="action width 6"):
        built(policy_args(folders, tmp_path, data=(other,)))


def test_a_policy_with_the_large_text_encoder_needs_a_text_cache(folders: Path, tmp_path: Path) -> None:
    document = tiny_config().to_dict()
    document["text"]["kind"] = "umt5"
    (tmp_path / "umt5.json").write_text(json.dumps(document))
    args = policy_args(folders, tmp_path / "out", config=str(tmp_path / "umt5.json"), cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="is 'umt5': give --texts"):
        built(args)
    assert not (tmp_path / "cache").exists()


def trainer_of(args: PolicyTrainArgs, folder: RunFolder) -> Trainer:
    subject, recipe = built(args)
    return Trainer(subject, recipe, folder)


def test_validation_uses_the_average_and_leaves_training_as_it_was(folders: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "policy", {}) as folder:
        trainer = trainer_of(policy_args(folders, tmp_path / "run"), folder)
        networks, average = trainer.subject.networks, trainer.step.average
        assert average is not None and networks.training
        before = copy.deepcopy(networks.state_dict())
        with torch.no_grad():
            for value in average.values:
                value.zero_()
        figures = trainer.validate()
        assert networks.training and all(torch.equal(before[n], v) for n, v in networks.state_dict().items())
        assert figures["held_out/action_mse"] > 0  # of networks whose output is 0
        again = trainer.validate()
        assert again == figures


def test_a_bad_batch_is_kept_and_ends_the_run(folders: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "policy", {}) as folder:
        trainer = trainer_of(policy_args(folders, tmp_path / "run"), folder)
        with torch.no_grad():
            trainer.subject.networks.policy.proprio_encoder.weight.fill_(torch.nan)  # type: ignore[union-attr,operator]
        with pytest.raises(TrainingError, match=r"step 0: .* is nan.*the batch is .*bad_batch_00000000\.pt"):
            trainer.run()
    kept = torch.load(tmp_path / "run/bad_batch_00000000.pt", weights_only=True)
    assert {"action", "proprio", "future.video_latents", "noise"} <= set(kept["batches"][0])


@pytest.mark.parametrize("attention", ["sdpa", "softmax", "kernels"])
def test_a_step_computes_where_the_networks_are(
    folders: Path, tmp_path: Path, attention: AttentionMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without data, which refuses a tensor of another device beside it, as a GPU would."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no device without data
    subject, _ = built(policy_args(folders, tmp_path, attention=attention))
    (batch,) = next(subject.updates(0, 1))
    networks, meta = copy.deepcopy(subject.networks).to("meta"), torch.device("meta")
    assert isinstance(networks, PolicyNetworks) and networks.device == meta
    drawn = networks.noise_for(batch, generator_of(0))
    assert drawn is not None
    losses = networks(on_device(batch, meta), *(tensor.to(meta) for tensor in drawn))
    assert set(losses) == {"loss", "loss_action", "loss_video", "loss_localisation"}
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in networks.localiser.parameters())  # type: ignore[union-attr]
