# SPDX-License-Identifier: Apache-2.0
"""Every full-size key is mapped exactly once, and nothing of a shape other than ours. No number is ever made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.convert_fixtures import GOLDEN, GROUPS
from helpers.released import ADDED_TO_BACKBONE
from lightwam.config import LightWAMConfig, TextConfig
from lightwam.convert.gather import DIT, VAE, Gathered
from lightwam.convert.instructions import open_umt5, umt5_faults
from lightwam.convert.sources import WeightsSource
from lightwam.model import UMT5Encoder
from lightwam.model.fit import on_meta
from lightwam.model.names import dit_names, umt5_names, vae_names


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, Tensor]]:
    """Group -> key -> tensor without memory, of the published full-size policy and its networks."""
    groups = json.loads((GOLDEN / "reference_keys.json").read_text())
    return {
        group: {key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}
        for group, keys in groups.items()
        if group != "note"
    }


def source(tensors: dict[str, Any]) -> WeightsSource:
    return WeightsSource(Path("given"), tensors, {})


def shapes(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, list[int]]:
    """Our name -> shape; every key must be mapped, no two to one name."""
    assert set(names) == set(tensors) and len(set(names.values())) == len(names)
    return {name: list(tensors[key].shape) for key, name in names.items()}


def backbone_of(reference: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    prefix = "mixtures.video."
    mot = {key.removeprefix(prefix): value for key, value in reference["mot"].items()}
    return {key: value for key, value in mot.items() if not any(part in key for part in ADDED_TO_BACKBONE)}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_released_policy_and_official_vae(reference: dict[str, dict[str, Tensor]], prefix: str) -> None:
    gathered = Gathered(LightWAMConfig.libero())
    gathered.add_policy(source({**{group: reference[group] for group in GROUPS}, "step": 1}))
    vae = {prefix + key.removeprefix("model."): value for key, value in reference["vae"].items()}
    gathered.add_vae(source({"model_state": vae}))
    assert gathered.faults() == []
    count = sum(len(reference[group]) for group in (*GROUPS, "vae"))
    assert len(gathered.weights) == count == 1709
    first = next(iter(reference["mot"]))
    assert gathered.weights["mot." + first] is reference["mot"][first]


@pytest.mark.parametrize("prefix", ["", "model."])
def test_official_dit(reference: dict[str, dict[str, Tensor]], prefix: str) -> None:
    backbone = backbone_of(reference)
    official = {prefix + key: value for key, value in backbone.items()}
    assert shapes(official, dit_names(official)) == {key: list(value.shape) for key, value in backbone.items()}


def test_dit_of_diffusers(reference: dict[str, dict[str, Tensor]]) -> None:
    import diffusers

    sizes = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
    with torch.device("meta"):
        theirs = diffusers.WanTransformer3DModel(**sizes).state_dict()
    wanted = {key: list(value.shape) for key, value in backbone_of(reference).items()}
    assert shapes(theirs, dit_names(theirs)) == wanted


def test_vae_of_diffusers(reference: dict[str, dict[str, Tensor]]) -> None:
    import diffusers

    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan().state_dict()
    wanted = {key: list(value.shape) for key, value in reference["vae"].items()}
    assert shapes(theirs, vae_names(theirs)) == wanted


def test_umt5_official_and_of_transformers(reference: dict[str, dict[str, Tensor]]) -> None:
    official = reference["text_encoder"]
    config = LightWAMConfig.libero()
    ours = open_umt5(config, source(official))
    assert len(ours) == len(official) and umt5_faults(config.text, ours) == []
    theirs = on_meta(lambda: UMT5Encoder(TextConfig())).encoder.state_dict()
    names = umt5_names(theirs)
    assert set(theirs) - set(names) == {"encoder.embed_tokens.weight"}  # the table's second name
    assert {name: list(theirs[key].shape) for key, name in names.items()} == shapes(official, umt5_names(official))
    single = {key: value for key, value in theirs.items() if key != "shared.weight"}
    assert set(umt5_names(single).values()) == set(names.values())


def test_what_does_not_fit_is_listed_completely(reference: dict[str, dict[str, Tensor]]) -> None:
    backbone = dict(backbone_of(reference))
    lost = {key for key in backbone if ".7." in key}
    backbone = {key: value for key, value in backbone.items() if key not in lost}
    backbone["extra.weight"] = torch.empty(1, device="meta")
    backbone["head.head.bias"] = torch.empty(65, device="meta")
    backbone["patch_embedding.bias"] = torch.empty(1536, dtype=torch.int8, device="meta")
    gathered = Gathered(LightWAMConfig.libero())
    gathered.add_dit(source(backbone))
    gathered.add_dit(source({"patch_embedding.bias": backbone["patch_embedding.bias"]}))
    kinds: dict[str, list[str]] = {}
    for fault in gathered.faults():
        kinds.setdefault(fault.kind, []).append(fault.name)
    of_dit = {name for name in kinds["missing"] if name.startswith(DIT) and "lora" not in name}
    assert {DIT + key for key in lost} <= of_dit
    assert kinds["unknown"] == [DIT + "extra.weight"] and kinds["wrong shape"] == [DIT + "head.head.bias"]
    assert kinds["wrong type"] == kinds["given twice"] == [DIT + "patch_embedding.bias"]
    assert not any(name.startswith(VAE) for name in kinds["missing"])  # none was given, so none is wanted
