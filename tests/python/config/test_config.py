# SPDX-License-Identifier: Apache-2.0
"""Presets, JSON round trips, published spellings, and refusal of bad values."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from helpers.model_golden import load_json
from helpers.robots import with_robot
from lightwam.config import (
    FLIPS,
    AdapterConfig,
    Camera,
    CameraLayout,
    LightWAMConfig,
    LoRAConfig,
    NormalizationConfig,
    TemporalWeighting,
    VAEConfig,
)
from lightwam.errors import ConfigError

PRESETS = [LightWAMConfig.libero, LightWAMConfig.robotwin, LightWAMConfig.nano]


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset: Any) -> None:
    config = preset()
    assert LightWAMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("preset", "grid", "window"), list(zip(PRESETS, [(14, 28), (24, 20), (8, 16)], [33, 33, 17], strict=True))
)
def test_token_grids_and_windows(preset: Any, grid: tuple[int, int], window: int) -> None:
    config = preset()
    assert config.token_grid == grid
    assert config.video.window == window == config.horizon + 1


def test_published_full_size_is_libero() -> None:
    config, libero = LightWAMConfig.from_published(load_json("full_config")), LightWAMConfig.libero()
    assert (config.video_dit, config.action_expert) == (libero.video_dit, libero.action_expert)
    assert config.robot == libero.robot


def test_published_options() -> None:
    config = LightWAMConfig.from_published(load_json("golden_set3"))
    assert config.action_expert.layer_sources == (("backbone", "delta"), ("adapted",))
    assert config.action_expert.pooling == "mean"
    assert config.video_dit.adapters == AdapterConfig(layers=(2, 5), dim=24, scale=0.5)
    assert config.loss.temporal_weighting == TemporalWeighting(prefix_steps=8, prefix_weight=1.0, tail_weight=0.0)
    assert (config.horizon, config.video.spatial_downsample) == (16, 2)


def published(**dit: Any) -> dict[str, Any]:
    document = copy.deepcopy(load_json("golden_set1"))
    document["video_dit_config"] |= dit
    return dict(document)


@pytest.mark.parametrize(
    ("spelling", "sources"),
    [
        (["h", "h_prime", "delta"], ("backbone", "adapted", "delta")),
        ("base, hprime", ("backbone", "adapted")),
        (["Frozen", "H'"], ("backbone", "adapted")),
        (["adapter", "adapted"], ("adapted",)),
    ],
)
def test_published_source_spellings(spelling: Any, sources: tuple[str, ...]) -> None:
    document = published()
    document["state_fusion_action_expert_config"]["feature_sources"] = spelling
    assert LightWAMConfig.from_published(document).action_expert.sources == sources


def test_published_lora_spellings() -> None:
    lora = LightWAMConfig.from_published(published(lora_target_modules="mlp, self_attn.q", lora_layer_indices=[4, 0]))
    assert lora.video_dit.lora == LoRAConfig((0, 4), ("ffn.0", "ffn.2", "self_attn.q"), 4, 8.0)
    default = LightWAMConfig.from_published(published(lora_target_modules=None, lora_layer_indices=None)).video_dit.lora
    assert default is not None and (default.layers, default.modules) == ((1, 3, 4), ("ffn.0", "ffn.2"))
    assert LightWAMConfig.from_published(published(use_backbone_lora=False)).video_dit.lora is None


def test_published_default_adapter_layers() -> None:
    dit = LightWAMConfig.from_published(published(adapter_layer_indices=None, num_layers=30)).video_dit
    assert dit.adapters.layers == (16, 20, 25, 29)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"has_image_input": True}, "has_image_input is True"),
        ({"use_wam_adapter": False}, "use_wam_adapter is False"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"video_attention_mask_mode": "diagonal"}, "'diagonal'"),
        ({"lora_target_modules": ["ffn.1"]}, "'ffn.1'"),
        ({"adapter_layer_indices": [1, 6]}, r"0\.\.5"),
        ({"attn_head_dim": 22}, "head_dim is 22"),
        ({"surprise": 1}, "surprise"),
        ({"hidden_dim": "72"}, "hidden_dim is '72'"),
        ({"adapter_layer_indices": 3}, "adapter_layer_indices is 3"),
        ({"lora_target_modules": 3}, "3 stands where names are wanted"),
    ],
)
def test_published_refusals(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LightWAMConfig.from_published(published(**change))


def test_published_needs_its_sections() -> None:
    with pytest.raises(ConfigError, match="proprio_dim"):
        LightWAMConfig.from_published({**published(), "proprio_dim": None})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"video_dit_config": "wan"}, "video_dit_config is 'wan'"),
        ({"scheduler": "flow"}, "scheduler is 'flow'"),
        ({"action_temporal_weighting": True}, "action_temporal_weighting is True"),
        ({"action_dim": "seven"}, "action_dim is 'seven'"),
        ({"proprio_dim": 8.5}, r"proprio_dim is 8\.5"),
        ({"action_horizon": 0}, "action_horizon is 0"),
        ({"vae_z_dim": [16]}, r"vae_z_dim is \[16\]"),
    ],
)
def test_published_refuses_bad_top_level_fields(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LightWAMConfig.from_published({**published(), **change})


def test_published_must_be_a_mapping() -> None:
    with pytest.raises(ConfigError, match="is a list"):
        LightWAMConfig.from_published([])  # type: ignore[arg-type]


def test_published_refuses_unknown_source() -> None:
    document = published()
    document["state_fusion_action_expert_config"]["feature_sources"] = ["gamma"]
    with pytest.raises(ConfigError, match="'gamma'"):
        LightWAMConfig.from_published(document)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"replan_steps": 17}, "replan_steps is 17"),
        ({"vae": VAEConfig(z_dim=4, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)}, "z_dim is 4"),
    ],
)
def test_bad_combinations(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(LightWAMConfig.nano(), **change)


def test_camera_rectangles_tile_the_canvas() -> None:
    assert with_robot(LightWAMConfig.nano(), cameras=(Camera("a", 0, 0, 16, 48),)).token_grid == (1, 3)
    with pytest.raises(ConfigError, match="tile"):
        CameraLayout((Camera("a", 0, 16, 16, 16),))
    with pytest.raises(ConfigError, match="tile"):
        CameraLayout((Camera("a", 0, 0, 16, 32), Camera("b", 0, 16, 16, 16)))
    with pytest.raises(ConfigError, match="each name once"):
        CameraLayout((Camera("a", 0, 0, 16, 16), Camera("a", 0, 16, 16, 16)))
    with pytest.raises(ConfigError, match="multiples of 16"):
        CameraLayout((Camera("a", 0, 0, 8, 16),))


@pytest.mark.parametrize("mode", ["min/max", "q01/q99", "z-score", "-1/1", "0/2"])
def test_normalization_modes(mode: str) -> None:
    assert NormalizationConfig(state=mode).state == mode


@pytest.mark.parametrize("mode", ["minmax", "1/-1", "a/b", "nan/1", ""])
def test_bad_normalization_modes(mode: str) -> None:
    with pytest.raises(ConfigError, match=r"normalization\.state"):
        NormalizationConfig(state=mode)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("horizon",), "16", "config.horizon is '16'"),
        (("video_dit", "eps"), None, "config.video_dit.eps is None"),
        (("video_dit", "patch_size"), [1, 2], "3 entries"),
        (("vae", "multipliers"), 3, "must be a list"),
        (("text", "kind"), "bytes", "use one of"),
        (("loss", "lambda"), 1.0, "unknown fields"),
        (("video_dit", "train_backbone"), 1, "type bool"),
    ],
)
def test_from_dict_names_the_field(path: tuple[str, ...], value: Any, named: str) -> None:
    document = LightWAMConfig.nano().to_dict()
    section = document
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ConfigError, match=named):
        LightWAMConfig.from_dict(document)


def test_from_dict_names_missing_fields() -> None:
    document = LightWAMConfig.nano().to_dict()
    del document["robot"]["state"]
    with pytest.raises(ConfigError, match=r"config.robot lacks the fields \['state'\]"):
        LightWAMConfig.from_dict(document)


def test_a_document_without_a_robot_says_so() -> None:
    document = LightWAMConfig.nano().to_dict()
    del document["robot"]
    with pytest.raises(ConfigError, match=r"config lacks the fields \['robot'\]"):
        LightWAMConfig.from_dict(document)


def flat(config: LightWAMConfig, gripper: str) -> dict[str, Any]:
    """The document that earlier versions wrote."""
    document = config.to_dict()
    robot, replan = document.pop("robot"), document.pop("replan_steps")
    for camera in robot["cameras"]:
        del camera["on_robot"]
        camera["flip_vertical"], camera["flip_horizontal"] = FLIPS[camera.pop("in_data")]
        del camera["data_name"]
    return {
        **document,
        "replan": replan,
        "cameras": {"height": config.cameras.height, "width": config.cameras.width, "cameras": robot["cameras"]},
        "state_dim": config.state_dim,
        "action_dim": config.action_dim,
        "gripper": gripper,
        "normalization": robot["normalization"],
    }


@pytest.mark.parametrize(("preset", "gripper"), list(zip(PRESETS, ["libero", "none", "libero"], strict=True)))
def test_flat_documents_of_earlier_versions_are_read(preset: Any, gripper: str) -> None:
    document, robot = flat(preset(), gripper), preset().robot
    cameras = tuple(replace(camera, data_name=None) for camera in robot.cameras)  # data sets named them as the policy
    same = replace(preset(), robot=replace(robot, cameras=cameras))
    assert LightWAMConfig.from_dict(document) == same
    assert LightWAMConfig.from_dict({**document, "replan_steps": document.pop("replan")}) == same
    narrow = LightWAMConfig.from_dict({**document, "replan": 3, "action_dim": 3, "cameras": {
        "height": 16, "width": 32, "cameras": [{"name": "a", "top": 0, "left": 0, "height": 16, "width": 32,
                                                "flip_vertical": True}]}})  # fmt: skip
    assert (narrow.action_dim, narrow.robot.gripper) == (3, preset().robot.gripper)
    assert (narrow.cameras.cameras[0].in_data, narrow.cameras.cameras[0].on_robot) == ("flipped_vertical",) * 2
    for change, named in (
        ({"gripper": "suction"}, "'suction'"),
        ({"cameras": []}, "config.cameras is"),
        ({"action_dim": 0}, "action_dim is 0"),
    ):
        with pytest.raises(ConfigError, match=named):
            LightWAMConfig.from_dict({**document, **change})
    del document["state_dim"]
    with pytest.raises(ConfigError, match="state_dim"):
        LightWAMConfig.from_dict(document)
