# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the wrappers of trainers: unwrapped where one set of weights is there, refused by name where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightwam.errors import CheckpointError
from lightwam.model.unwrap import unwrap

NAMES = ("mot.mixtures.video.blocks.0.norm3.weight", "state_fusion_action_expert.fc.bias", "proprio_encoder.weight")
LIVE = {name: torch.tensor(float(place)) for place, name in enumerate(NAMES)}
AVERAGE = {name: value + 100 for name, value in LIVE.items()}
OPTIMIZER = {"state": {name: {"exp_avg": value} for name, value in LIVE.items()}, "param_groups": [{"lr": 1.0}]}


def under(prefix: str, weights: dict[str, Tensor] = LIVE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


def nested(weights: dict[str, Tensor] = LIVE, prefix: str = "") -> dict[str, Any]:
    """The parts of a released file."""
    made: dict[str, Any] = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        made.setdefault(part, {})[prefix + rest] = value
    return {**made, "step": 3}


WRAPPED: list[tuple[dict[str, Any], str]] = [
    (under("module."), "'module.'"),
    (under("_orig_mod."), "'_orig_mod.'"),
    (under("module._orig_mod."), "'module.', '_orig_mod.'"),
    (under("model."), "'model.'"),
    (under("_fsdp_wrapped_module.model."), "'_fsdp_wrapped_module.', 'model.'"),
    (under("base_model.model."), "'base_model.model.'"),
    (under("agent.policy.net."), "'agent.policy.net.'"),
    ({name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in LIVE.items()}, "'_orig_mod.'"),
    ({name.replace("mot.", "mot._fsdp_wrapped_module."): value for name, value in under("module.").items()},
     "'module.', '_fsdp_wrapped_module.'"),
    ({"model": LIVE, "optimizer": OPTIMIZER, "epoch": 3}, "'model'"),
    ({"state_dict": under("model."), "callbacks": {}, "optimizer_states": [OPTIMIZER]}, "'state_dict', 'model.'"),
    ({"ema": LIVE}, "'ema'"),
    ({"ema_state_dict": under("module."), "optim": OPTIMIZER}, "'ema_state_dict', 'module.'"),
    ({"module": under("module."), "ds_version": "0.14"}, "'module', 'module.'"),
    ({"ema": {"shadow": LIVE, "decay": 0.99}}, "'ema', 'shadow'"),
    ({"n_averaged": torch.tensor(3), **under("module.")}, "'module.'"),
    ({"a": {"b": {"c": {"state_dict": under("module.model.")}}}}, "'a', 'b', 'c', 'state_dict', 'module.', 'model.'"),
]  # fmt: skip


@pytest.mark.parametrize("content, removed", WRAPPED, ids=[row[1] for row in WRAPPED])
def test_one_set_of_weights(content: dict[str, Any], removed: str) -> None:
    found = unwrap("policy.pt", content, "policy")
    assert found.content == LIVE
    assert found.note.startswith(f"unwrapped {removed} ({len(LIVE)} tensors)")


def test_what_is_left_out_is_said() -> None:
    content = {"model": LIVE, "optimizer": OPTIMIZER, "epoch": 3}
    assert unwrap("policy.pt", content, "policy").note.endswith("; left out: optimizer, epoch")


@pytest.mark.parametrize("content", [LIVE, nested(), {**LIVE, "foo.bar": torch.zeros(2)}, {"foo": torch.zeros(2)}, {}])
def test_nothing_is_wrapped(content: dict[str, Any]) -> None:
    found = unwrap("policy.pt", content, "policy")
    assert found.content == content and found.note == "" and not found.chosen


def test_parts_of_a_released_file_inside_and_outside() -> None:
    assert unwrap("a", {"model": nested()}, "policy").content == nested()
    assert unwrap("a", nested(prefix="module."), "policy").content == nested()


TWO_SETS: list[dict[str, Any]] = [
    {"model": LIVE, "ema": AVERAGE},
    {"model_state_dict": under("module."), "ema_state_dict": under("module.", AVERAGE), "epoch": 1},
    {"state_dict": {**under("model."), **under("ema_model.", AVERAGE)}},
    {"ema": AVERAGE, "model": nested()},
]


@pytest.mark.parametrize("content", TWO_SETS)
def test_two_sets_are_refused_or_chosen(content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"several sets of weights: .*ema.* \(3 tensors\).*--weights"):
        unwrap("policy.pt", content, "policy")
    found = unwrap("policy.pt", content, "policy", "ema")
    assert found.content == AVERAGE and found.chosen and "left out: model" in found.note
    live = unwrap("policy.pt", content, "policy", "model").content
    assert live in (LIVE, nested())
    with pytest.raises(CheckpointError, match="--weights swa is none of them"):
        unwrap("policy.pt", content, "policy", "swa")


@pytest.mark.parametrize("plain", [LIVE, nested()])
def test_an_average_beside_plain_names(plain: dict[str, Any]) -> None:
    content = {**plain, "ema": AVERAGE}
    with pytest.raises(CheckpointError, match=r"plain \(3 tensors\), ema \(3 tensors\)"):
        unwrap("policy.pt", content, "policy")
    assert unwrap("policy.pt", content, "policy", "plain").content == plain
    assert unwrap("policy.pt", content, "policy", "ema").content == AVERAGE


def test_a_small_average_is_a_choice_too() -> None:
    """Some trainers average what they train only; a small set of another name is left out and said."""
    few = dict(list(AVERAGE.items())[:1])
    with pytest.raises(CheckpointError, match=r"ema \(1 tensors\)"):
        unwrap("policy.pt", {"model": LIVE, "ema": few}, "policy")
    assert "left out: head" in unwrap("policy.pt", {"model": LIVE, "head": few}, "policy").note


def test_a_choice_that_is_not_there_is_not_chosen() -> None:
    assert not unwrap("policy.pt", {"model": LIVE}, "policy", "ema").chosen
    assert not unwrap("policy.pt", {"ema": LIVE}, "policy", "plain").chosen
    assert unwrap("policy.pt", {"ema": LIVE}, "policy", "ema").chosen


@pytest.mark.parametrize(
    "content, told",
    [
        ({**LIVE, **under("module.")}, "twice, as mot.* and module.mot"),
        (under("base_model.model.", {"mot.q.lora_A.default.weight": torch.zeros(1)}), "merge_and_unload"),
        (under("base_model.model.", {"mot.q.base_layer.weight": torch.zeros(1)}), "merge_and_unload"),
        ({"mot._fsdp_wrapped_module._flat_param": torch.zeros(1)}, "full state dict"),
        ({"shadow_params": list(LIVE.values()), "decay": 0.99}, "3 tensors without names in 'shadow_params'.*copy_to"),
        ({"model": [LIVE, AVERAGE]}, "a list of 2 state dicts in 'model'"),
        ({"mot.q.parametrizations.weight.original0": torch.zeros(1)}, "remove_parametrizations"),
        ({name.replace(".", "/"): value for name, value in LIVE.items()}, "joined by '.'"),
    ],
)
def test_other_forms_are_named(content: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        unwrap("policy.pt", content, "policy")


def test_lists_beside_weights_are_no_weights() -> None:
    assert unwrap("policy.pt", {"model": LIVE, "shadow_params": list(LIVE.values())}, "policy").content == LIVE
    assert unwrap("policy.pt", {**LIVE, "losses": [torch.zeros(1)]}, "policy").removed == []


@pytest.mark.parametrize("prefix", ["", "model.", "vae.model.", "first_stage_model."])
def test_vae(prefix: str) -> None:
    weights = {"encoder.conv1.weight": torch.zeros(1), "decoder.head.2.bias": torch.ones(1)}
    other = under("mot.") if prefix == "vae.model." else {}  # our own checkpoint holds the policy beside it
    found = unwrap("vae.pth", {"model_state": {**under(prefix, weights), **other}}, "vae")
    assert found.content == weights


@pytest.mark.parametrize(
    "names", [("shared.weight", "encoder.block.0.x"), ("encoder.embed_tokens.weight",), ("blocks.0.x",)]
)
def test_umt5(names: tuple[str, ...]) -> None:
    weights = {name: torch.zeros(1) for name in names}
    assert unwrap("t5.pth", weights, "text").content == weights
    assert unwrap("t5.pth", {"state_dict": under("text_model.", weights)}, "text").content == weights
