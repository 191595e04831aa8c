# SPDX-License-Identifier: Apache-2.0
"""The maps are the model's own softmax weights, and land on the pixels that the tokens are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from helpers.viz_set import CORNER, LENGTHS, SIDE, config
from lightwam import cli
from lightwam.config import LightWAMConfig
from lightwam.data.sources import open_datasets
from lightwam.errors import ConfigError
from lightwam.export.checkpoint import PolicyCheckpoint
from lightwam.model import LightWAM
from lightwam.viz.attention import episode_maps, pooler_maps
from lightwam.viz.heat import TEXT_HEIGHT, camera_shares, columns_for, evenly, on_canvas, overlay, panels, spread
from lightwam.viz.policy import PolicyOnRecordings, open_policy

SOURCES = ("backbone", "adapted", "delta")


def opened(seen: Path) -> PolicyOnRecordings:
    checkpoint = open_policy(seen / "checkpoint")
    return PolicyOnRecordings(checkpoint, open_datasets([seen / "data"], checkpoint.config)[0])


def weights_of(model: LightWAM, layer: int, source: str, tokens_BSD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weights [B, heads, Q, S], merge weights [M, Q]) of a pooler in float64, from its parameters."""
    expert = model.state_fusion_action_expert
    raw = {name: value.double().numpy() for name, value in expert.pooler(layer, source).state_dict().items()}
    heads, (width, queries) = expert.config.num_heads, raw["query_tokens"].shape[::-1]
    mean = tokens_BSD.mean(-1, keepdims=True)
    normed = (tokens_BSD - mean) / np.sqrt(((tokens_BSD - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    normed = normed * raw["token_norm.weight"] + raw["token_norm.bias"]
    matrix, bias = raw["attn.in_proj_weight"], raw["attn.in_proj_bias"]
    q = (raw["query_tokens"] @ matrix[:width].T + bias[:width]).reshape(queries, heads, -1)
    k = (normed @ matrix[width : 2 * width].T + bias[width : 2 * width]).reshape(*normed.shape[:2], heads, -1)
    scores = np.exp(np.einsum("qhe,bshe->bhqs", q, k) / np.sqrt(width / heads))
    logits = raw["query_slot_merge_logits"] if "query_slot_merge_logits" in raw else raw["query_merge_logits"][None]
    merge = np.exp(logits)
    return scores / scores.sum(-1, keepdims=True), merge / merge.sum(-1, keepdims=True)


def pooled_by(
    model: LightWAM, layer: int, source: str, weights: np.ndarray, merge: np.ndarray, tokens_BSD: np.ndarray
) -> torch.Tensor:
    """The vector that actions are made of, from these weights: what they weigh is what the model uses."""
    pooler = model.state_fusion_action_expert.pooler(layer, source)
    normed = pooler.token_norm(torch.from_numpy(tokens_BSD).float()).double()
    matrix, bias = (part.chunk(3)[2].double() for part in (pooler.attn.in_proj_weight, pooler.attn.in_proj_bias))
    values = (normed @ matrix.T + bias).unflatten(-1, (weights.shape[1], -1))
    answers = torch.einsum("bhqs,bshe->bqhe", torch.from_numpy(weights), values).flatten(2)
    merged = (torch.from_numpy(merge).float() @ pooler.attn.out_proj(answers.float())).flatten(1)
    return pooler.output_norm(pooler.query_merge_projector(merged) if pooler.merges_slots else merged)


@torch.no_grad()
@pytest.mark.parametrize("expert", [{}, {"sources": SOURCES, "merge_dim": 12, "merge_slots": 2}], ids=["one", "slots"])
def test_maps_are_the_softmax_weights_that_the_model_uses(
    expert: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = config(**expert), torch.Generator().manual_seed(4)
    torch.manual_seed(5)
    model = LightWAM(made).eval()
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    inputs = (torch.randn(2, 16, 1, 4, 8, generator=given), torch.randn(2, 24, 16, generator=given), None,
              torch.randn(2, 8, generator=given))  # fmt: skip
    found = pooler_maps(model, inputs)
    tokens: dict[tuple[int, str], np.ndarray] = {}
    listed = type(model.state_fusion_action_expert).source_tokens

    def note(self: Any, layer: int, state: Any) -> Any:
        made_tokens = listed(self, layer, state)
        tokens.update({(layer, source): value.double().numpy() for source, value in made_tokens.items()})
        return made_tokens

    monkeypatch.setattr(type(model.state_fusion_action_expert), "source_tokens", note)
    pooled = model.action_features(*inputs).pooled
    sources: tuple[str, ...] = expert.get("sources", ("adapted",))
    names = [(layer, source) for layer in (0, 1) for source in sources]
    assert list(found) == [f"block {layer}" + ("" if s == "adapted" else f", {s}") for layer, s in names]
    for layer, source in names:
        weights, merge = weights_of(model, layer, source, tokens[layer, source])
        expected = np.einsum("q,bqs->bs", merge.mean(0), weights.mean(1))
        map_B24 = found[f"block {layer}" + ("" if source == "adapted" else f", {source}")]
        assert map_B24.shape == (2, 2, 4) and map_B24.std() > 1e-4
        np.testing.assert_allclose(map_B24.reshape(2, 8), expected, atol=2e-6)
        np.testing.assert_allclose(map_B24.sum((1, 2)), 1.0, atol=1e-5)
        size = pooled[layer].shape[1] // len(sources)
        part = pooled[layer][:, sources.index(source) * size :][:, :size]
        again = pooled_by(model, layer, source, weights, merge, tokens[layer, source])
        torch.testing.assert_close(part, again, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def look_at(policy: PolicyOnRecordings, token: int) -> None:
    """Change the weights: blocks and adapters add nothing, and every query looks for what this token differs by from
    the others in row 0."""
    model = policy.model
    for name, parameter in model.video_dit.named_parameters():
        if any(part in name for part in ("attn.o.", "ffn.2.", "wam_adapters")):
            parameter.zero_()
    inputs = policy.inputs(policy.batch([0]))
    state = model._action_states(*inputs, last_block=1)[0]
    for module in model.state_fusion_action_expert.layer_poolers:
        pooler = module["adapted"]
        (normed,) = pooler.token_norm(state.adapted)
        differs = normed[token] - (normed.sum(0) - normed[token]) / (len(normed) - 1)
        width = len(differs)
        pooler.attn.in_proj_weight.zero_()
        pooler.attn.in_proj_weight[width : 2 * width] = torch.eye(width)
        pooler.attn.in_proj_bias.zero_()
        pooler.attn.in_proj_bias[:width] = 60 * differs / differs.abs().max()


def test_heat_lies_where_the_camera_saw_it(seen: Path) -> None:
    """What the wrist's camera recorded in its upper left corner lies in the lower right one of the right rectangle."""
    policy = opened(seen)
    look_at(policy, token=7)  # the last of 2 x 4
    episode, counted = policy.dataset.episodes[0], list[int]()
    maps = episode_maps(policy, episode, range(episode.start, episode.stop, 2), counted.append)
    assert sum(counted) == len(maps.canvases) == 4 and list(maps.weights) == ["block 0", "block 1"]
    bright = np.argwhere(maps.canvases[1].min(-1) > 220)
    assert bright.min(0) == pytest.approx((SIDE - CORNER, 2 * SIDE - CORNER), abs=2) and bright.max() == 2 * SIDE - 1
    for weights in maps.weights.values():
        assert weights[1].argmax() == 7 and weights[1, 1, 3] > 0.7, weights[1]
        heat = on_canvas(weights[1], policy.config.cameras)
        assert heat[24, 56] == pytest.approx(8 * weights[1, 1, 3], rel=0.05)  # the token's centre
        assert heat[:, :SIDE].max() < 1 < heat[tuple(bright.mean(0).astype(int))]
        shares = camera_shares(weights[1], policy.config.cameras)
        assert shares["wrist"] > 0.9 and sum(shares.values()) == pytest.approx(1)
        drawn = overlay(maps.canvases[1], heat, 8.0).astype(int)
        warm = drawn[..., 0] - drawn[..., 2]
        assert warm[24, 56] > 60 > 0 > warm[8, 8]


def test_every_token_heats_its_own_pixels() -> None:
    """On the three cameras of RoboTwin, of which two are half as large as the first."""
    layout = LightWAMConfig.robotwin().cameras
    rows, columns = layout.height // 32, layout.width // 32
    owner = np.empty((layout.height, layout.width), int)
    for number, camera in enumerate(layout.cameras):
        owner[camera.top : camera.top + camera.height, camera.left : camera.left + camera.width] = number
    for row in range(rows):
        for column in range(columns):
            weights = np.zeros((rows, columns))
            weights[row, column] = 1.0
            heat = on_canvas(weights, layout)
            place = np.unravel_index(heat.argmax(), heat.shape)
            assert (place[0] // 32, place[1] // 32) == (row, column)
            own = owner[32 * row, 32 * column]
            assert heat[owner != own].max() == 0
            assert camera_shares(weights, layout)[layout.cameras[own].name] == pytest.approx(1)
    even = np.full((rows, columns), 1 / (rows * columns))
    np.testing.assert_allclose(on_canvas(even, layout), 1.0)
    assert spread(even) == pytest.approx(rows * columns) and spread(weights) == pytest.approx(1)


def test_panels_and_places() -> None:
    images = {"a": np.full((4, 7, 3), 50, np.uint8), "b": np.full((4, 7, 3), 90, np.uint8),
              "c": np.full((4, 7, 3), 130, np.uint8)}  # fmt: skip
    whole = panels(list(images.items()), columns=2, zoom=3)
    height, width = 12 + TEXT_HEIGHT, 21
    assert whole.shape == (2 * height, 2 * width, 3)
    for place, value in {(0, 0): 50, (0, 1): 90, (1, 0): 130, (1, 1): 0}.items():
        top, left = place[0] * height + TEXT_HEIGHT, place[1] * width
        assert (whole[top : top + 12, left : left + width] == value).all()
    assert panels([("a", np.zeros((4, 7, 3), np.uint8))], 1, 1).shape == (22, 8, 3)  # videos need even sides
    assert [columns_for(count, (256, 512)) for count in (1, 3, 4, 5)] == [1, 1, 2, 2]
    assert columns_for(3, (256, 256)) == 3 and columns_for(4, (256, 256)) == 2
    assert evenly(10, 3) == [0, 4, 9] and evenly(2, 5) == [0, 1] and evenly(1, 4) == [0]


def test_pictures_and_a_video_of_each_episode(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    words = ["viz", "attention", "--data", str(seen / "data"), "--checkpoint", str(seen / "checkpoint")]
    assert cli.main([*words, "--out", str(out), "--episodes", "all", "--frames", "3"]) == 0
    told = capsys.readouterr().out
    assert "looking  100%" in told and "block 1" in told and "of 8 tokens" in told and str(out) in told
    names = ["attention.json", *(f"attention_00000{n}.{end}" for n in (0, 1) for end in ("mp4", "png"))]
    assert sorted(path.name for path in out.iterdir()) == names
    figures = json.loads((out / "attention.json").read_text())["episodes"]
    shares = figures["1"]["poolers"]["block 0"]["camera_share"]
    assert figures["0"]["rows"] == LENGTHS[0] and sum(shares.values()) == pytest.approx(1, abs=1e-3)
    with av.open(str(out / "attention_000000.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 5)
        assert sum(1 for _ in video.decode(video=0)) == LENGTHS[0]
    dark = (out / "attention_000000.png").read_bytes()
    assert cli.main([*words, "--out", str(out), "--frames", "3", "--top", "1.2"]) == 0  # the older ones are replaced
    assert (out / "attention_000000.png").read_bytes() != dark
    assert sorted(path.name for path in out.iterdir()) == names[:3]


def test_a_policy_that_pools_by_the_mean_has_no_attention(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightwam.viz import attention
    from lightwam.viz.recordings import Recordings

    checkpoint = open_policy(seen / "checkpoint")
    mean = PolicyCheckpoint(config(pooling="mean"), *(getattr(checkpoint, name) for name in
                            ("model", "vae", "text_encoder", "statistics", "instructions")))  # fmt: skip
    monkeypatch.setattr(attention, "open_policy", lambda folder: mean)
    with pytest.raises(ConfigError, match="pooling 'mean'"):
        attention.show_attention(Recordings(data=seen / "data", out=tmp_path / "out"), seen / "checkpoint")
    assert not (tmp_path / "out").exists()
