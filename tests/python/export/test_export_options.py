# SPDX-License-Identifier: Apache-2.0
"""Every option of the configuration: folded like the model, or refused by name and value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.golden import random_model, tiny_config
from helpers.robots import numbered, with_robot
from lightwam.config import Camera, LightWAMConfig, LoRAConfig, NormalizationConfig
from lightwam.engine.file import read_engine
from lightwam.engine.interpret import Interpreter
from lightwam.errors import ExportError
from lightwam.export import export_engine
from lightwam.export.layers import constant
from lightwam.export.options import ExportOptions
from lightwam.export.parity import CHUNK
from lightwam.export.policy import Normalization
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.model import LightWAM
from lightwam.model.text import HashedWordsEncoder
from lightwam.model.vae import WanVAE
from lightwam.runtime import Policy

Edit = Callable[[LightWAMConfig], LightWAMConfig]


def _dit(**changes: Any) -> Edit:
    return lambda config: replace(config, video_dit=replace(config.video_dit, **changes))


def _expert(**changes: Any) -> Edit:
    return lambda config: replace(config, action_expert=replace(config.action_expert, **changes))


def _adapters(**changes: Any) -> Edit:
    return lambda c: _dit(adapters=replace(c.video_dit.adapters, **changes))(c)


def _downsampled(config: LightWAMConfig) -> LightWAMConfig:
    return replace(config, video=replace(config.video, spatial_downsample=2, downsample_action_pass=True))


def _fourteen(config: LightWAMConfig) -> LightWAMConfig:
    return with_robot(replace(config, horizon=5, replan_steps=5), state=numbered(14), action=numbered(14), gripper=None)


_OPTIONS: dict[str, Edit] = {
    "merged slots": _expert(merge_dim=40, merge_slots=3),
    "one merged slot": _expert(merge_dim=40, merge_slots=1),
    "mean pooling": _expert(pooling="mean"),
    "three sources": _expert(sources=("delta", "backbone", "adapted")),
    "sources per layer": _expert(layer_sources=(("backbone",), ("delta",), ("adapted", "backbone"))),
    "only backbone": _expert(sources=("backbone",)),
    "no trunk block": _expert(num_trunk_blocks=0),
    "three trunk blocks": _expert(num_trunk_blocks=3),
    "pooler heads and queries": _expert(num_heads=6, num_queries=5),
    "adapter scale": _adapters(scale=0.25),
    "last adapter in the middle": _adapters(layers=(0, 2)),
    "no LoRA": _dit(lora=None),
    "partial LoRA": _dit(
        lora=LoRAConfig(layers=(1, 4), modules=("self_attn.q", "cross_attn.v", "ffn.2"), rank=3, alpha=7)
    ),
    "attention narrower than the stream": _dit(num_heads=2, head_dim=12),
    "bidirectional mask": _dit(attention_mask="bidirectional"),
    "larger patch": _dit(patch_size=(1, 4, 4)),
    "down-sampled action pass": _downsampled,
    "14-d actions": _fourteen,
}


@pytest.mark.parametrize("option", _OPTIONS)
def test_option_folds_like_the_model(option: str, tmp_path: Path) -> None:
    config = _OPTIONS[option](tiny_config())
    model = random_model(config, seed=1)
    report = export_engine(
        model, tmp_path / "tiny.lwam", start_at="latents", latent_shape=(16, 8, 8), context_rows=9,
        instructions={"go": np.ones((2, 32))}, parity_seeds=(0, 1),
    )  # fmt: skip
    assert report.parity is not None
    assert report.parity.relative_error < 1e-5


def _statistics(rng: np.random.Generator) -> dict[str, Any]:
    def field(width: int) -> dict[str, Any]:
        low = rng.uniform(-2, -0.5, width)
        numbers = {"min": low, "max": low + 2, "mean": low + 1, "std": low + 3, "q01": low + 0.1, "q99": low + 1.5}
        return {f"{kind}_{name}": x.tolist() for kind in ("global", "stepwise") for name, x in numbers.items()}

    return {"state": {"default": field(8)}, "action": {"default": field(7)}, "num_episodes": 1, "num_transition": 1}


@pytest.mark.parametrize("mode", ["min/max", "q01/q99", "z-score", "-1/1", "0/2"])
def test_normalizer_and_gripper_rule_apply_as_defined(mode: str) -> None:
    from lightwam.data.normalize import normalizers

    config = tiny_config()
    config = with_robot(config, normalization=NormalizationConfig(mode, mode))
    statistics = _statistics(np.random.default_rng(3))
    options = ExportOptions(start_at="latents", latent_shape=(16, 8, 8), context_rows=4)
    units = Normalization.from_statistics(config, statistics)
    graph = build_graph(config, StateDictWeights(random_model(config).state_dict()), options, units)
    interpreter = Interpreter(graph, keep_trace=True)
    interpreter.set_instruction(np.ones((4, 32), np.float32))
    state = np.linspace(-9, 9, 8).astype(np.float32)
    actions = interpreter.act(state, np.ones((16, 8, 8), np.float32))
    state_units, action_units = normalizers(config, statistics)
    forward = state_units.forward(state)
    np.testing.assert_allclose(interpreter.trace["state_normalized"][0], forward, rtol=1e-5, atol=1e-6)
    wanted = action_units.backward(np.asarray(interpreter.trace[CHUNK]))
    np.testing.assert_allclose(actions[:, :6], wanted[:, :6], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(actions[:, 6], np.sign(-(2 * wanted[:, 6] - 1)))


def _tiny_export(
    tmp_path: Path, config: LightWAMConfig | None = None, model: LightWAM | None = None, **options: Any
) -> None:
    defaults: dict[str, Any] = {
        "start_at": "latents", "latent_shape": (16, 8, 8), "context_rows": 4, "parity_seeds": (),
        "instructions": {"go": np.ones((2, 32))},
    }  # fmt: skip
    export_engine(model or random_model(config or tiny_config()), tmp_path / "tiny.lwam", **{**defaults, **options})


_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no context row": ({"context_rows": 0}, "context_rows is 0"),
    "instruction that is no text": ({"instructions": {1: np.ones((2, 32))}}, "instruction 0 is 1"),
    "repeated instruction": ({"instructions": {"go": np.ones((2, 32)), " go ": np.ones((1, 32))}}, "given twice"),
    "unknown precision": ({"precision": "fp32"}, "precision is 'fp32'"),
    "unknown weight format": ({"weight_dtype": "f16"}, "weight_dtype is 'f16'"),
    "bf16 weights in an f16 engine": ({"precision": "f16", "weight_dtype": "bf16"}, "weight_dtype is 'bf16'"),
    "float32 weights in a bf16 engine": ({"precision": "bf16", "weight_dtype": "f32"}, "weight_dtype is 'f32'"),
    "half streams in an f32 engine": ({"stream_dtype": "f16"}, r"stream_dtype is 'f16': with precision 'f32'"),
    "unknown stream format": ({"precision": "bf16", "stream_dtype": "bf16"}, "stream_dtype is 'bf16'"),
    "provenance that is no JSON": ({"provenance": {"who": object()}}, "provenance"),
    "unknown start": ({"start_at": "tokens"}, "start_at is 'tokens'"),
    "latents of another width": ({"latent_shape": (4, 8, 8)}, r"latent_shape is \[4, 8, 8\]"),
    "latents off the patch grid": ({"latent_shape": (16, 8, 7)}, r"latent_shape is \[16, 8, 7\]"),
    "no instruction": ({"instructions": {}}, "instructions is empty"),
    "empty instruction": ({"instructions": {" ": np.ones((2, 32))}}, "instruction 0 is ' '"),
    "zero context": ({"instructions": {"go": np.zeros((2, 32))}}, "0 rows that are not zero"),
    "long context": ({"instructions": {"go": np.ones((5, 32))}}, "5 rows that are not zero"),
    "wide context": ({"instructions": {"go": np.ones((2, 31))}}, r"shape \[2, 31\]"),
    "NaN context": ({"instructions": {"go": np.full((2, 32), np.nan)}}, "finite rows"),
    "images without a VAE": ({"start_at": "images"}, "vae is None"),
}


@pytest.mark.parametrize("option", _REFUSED)
def test_what_is_not_folded_is_refused_by_name(option: str, tmp_path: Path) -> None:
    options, message = _REFUSED[option]
    with pytest.raises(ExportError, match=message):
        _tiny_export(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_options_are_one_object_or_fields_by_name(tmp_path: Path) -> None:
    options = ExportOptions(start_at="latents", latent_shape=(16, 8, 8), context_rows=4, parity_seeds=(), name="a")
    model, told = random_model(tiny_config()), {"go": np.ones((2, 32))}
    export_engine(model, tmp_path / "one.lwam", options, instructions=told)
    export_engine(model, tmp_path / "two.lwam", instructions=told, **vars(options))
    assert (tmp_path / "one.lwam").read_bytes() == (tmp_path / "two.lwam").read_bytes()
    export_engine(model, tmp_path / "renamed.lwam", options, instructions=told, name="b", control_hz=7.0)
    made = read_engine(tmp_path / "renamed.lwam")
    assert (made.name, made.policy["control_hz"]) == ("b", 7.0)
    with pytest.raises(TypeError, match="context_mask"):
        export_engine(model, tmp_path / "x.lwam", options, instructions=told, context_mask=[True])


def test_a_weight_beyond_f16_is_refused_by_name_and_value(tmp_path: Path) -> None:
    model = random_model(tiny_config())
    with torch.no_grad():
        model.get_parameter("mot.mixtures.video.blocks.0.cross_attn.q.weight")[3, 4] = -1e6
    with pytest.raises(
        ExportError, match=r"blocks\.0\.cross_attn\.q\.weight holds -.*, beyond f16's 65504: export with"
    ):
        _tiny_export(tmp_path, model=model, precision="f16")
    assert list(tmp_path.iterdir()) == []
    _tiny_export(tmp_path, model=model, precision="bf16")  # has the range of f32


def test_the_largest_f16() -> None:
    """65,519.9 rounds to it, 65,520 to infinity."""
    numbers = torch.tensor([1.0, -65_519.9, 1e-9], dtype=torch.float64)
    np.testing.assert_array_equal(constant("w", "f16", (3,), lambda: numbers).array(), np.float16([1, -65_504, 0]))
    with pytest.raises(ExportError, match="constant w holds -65520, beyond f16's 65504"):
        constant("w", "f16", (3,), lambda: numbers - 0.1).array()


def test_flip_of_one_axis_is_refused(tmp_path: Path) -> None:
    camera = Camera("eye", 0, 0, 64, 64, in_data="flipped_vertical", on_robot="flipped_vertical")
    config = with_robot(tiny_config(), cameras=(camera,))
    with pytest.raises(ExportError, match=r"camera eye has on_robot 'flipped_vertical'"):
        _tiny_export(tmp_path, config, start_at="images", latent_shape=None, vae=WanVAE(config.vae))


def test_text_encoder_of_another_length_is_refused(tmp_path: Path) -> None:
    config = LightWAMConfig.nano()
    with pytest.raises(ExportError, match=r"context_rows is 4: .* 24"):
        _tiny_export(
            tmp_path, config, text_encoder=HashedWordsEncoder(config.text), instructions={}, latent_shape=(16, 16, 32)
        )


def test_broken_normalizer_is_refused(tmp_path: Path) -> None:
    broken = replace(Normalization.identity(tiny_config()), action_scale=np.zeros(7))
    with pytest.raises(ExportError, match="normalizer action_scale"):
        _tiny_export(tmp_path, normalizer=broken)


def test_wrong_fold_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parity check is alive: a fold that is wrong by one per cent is caught, and no file appears."""
    from lightwam.export import backbone

    right = backbone.absorb_gate
    monkeypatch.setattr(backbone, "absorb_gate", lambda linear, gate: right(linear, 1.01 * gate))
    with pytest.raises(ExportError, match="parity of the folded graph"):
        _tiny_export(tmp_path, parity_seeds=(0,))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_hold_nan_are_refused(tmp_path: Path) -> None:
    model = random_model(tiny_config())
    model.proprio_encoder.bias.data[0] = float("nan")
    with pytest.raises(ExportError, match=r"proprio_encoder\.bias holds NaN"):
        export_engine(
            model, tmp_path / "x.lwam", start_at="latents", latent_shape=(16, 8, 8), context_rows=4,
            instructions={"go": np.ones((2, 32))}, parity_seeds=(),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_without_a_normalizer_the_gripper_stays_normalised(tmp_path: Path) -> None:
    config = tiny_config()
    assert config.robot.gripper is not None
    model = random_model(config, seed=1)
    export_engine(
        model, tmp_path / "tiny.lwam", start_at="latents", latent_shape=(16, 8, 8), context_rows=4,
        instructions={"go": np.ones((4, 32))}, parity_seeds=(),
    )  # fmt: skip
    policy = Policy(tmp_path / "tiny.lwam", threads=1)
    assert policy.metadata["policy"]["gripper"] is None
    policy.set_instruction("go")
    latents, state = np.random.default_rng(0).standard_normal((16, 8, 8)).astype(np.float32), np.ones(8, np.float32)
    with torch.no_grad():
        inputs = (torch.tensor(latents)[None, :, None], torch.ones(1, 4, 32), None, torch.tensor(state)[None])
        wanted = model.predict_actions(*inputs)[0].numpy()
    made = policy.infer({"latents": latents, "state": state}).actions
    assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_state_of_zero_deviation_is_normalised_as_in_training(tmp_path: Path) -> None:
    """z-score of a joint that never moves: scale 1e8, so a fused multiply-add would make noise of a state at its mean.

    Parity is measured as well: its random states must survive such scales.
    """
    from lightwam.data.normalize import normalizers

    config = tiny_config()
    config = with_robot(config, normalization=NormalizationConfig("z-score", "z-score"))
    statistics = _statistics(np.random.default_rng(3))
    for dimension in (2, 5):
        statistics["state"]["default"]["global_std"][dimension] = 0.0
    model = random_model(config, seed=3)
    export_engine(
        model, tmp_path / "tiny.lwam", start_at="latents", latent_shape=(16, 8, 8), context_rows=4,
        instructions={"go": np.ones((4, 32))}, normalizer=statistics,
    )  # fmt: skip
    policy = Policy(tmp_path / "tiny.lwam", threads=1)
    policy.set_instruction("go")
    state_units, action_units = normalizers(config, statistics)
    mean = np.asarray(statistics["state"]["default"]["global_mean"], np.float32)
    state, latents = mean, np.ones((16, 8, 8), np.float32)
    proprio = state_units.forward(state)
    np.testing.assert_array_equal(proprio, np.zeros(8))
    with torch.no_grad():
        inputs = (torch.ones(1, 16, 1, 8, 8), torch.ones(1, 4, 32), None, torch.tensor(proprio)[None])
        chunk = model.predict_actions(*inputs)[0].numpy()
    wanted = action_units.backward(chunk)[:, :6]
    made = policy.infer({"latents": latents, "state": state}).actions[:, :6]
    assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_half_precision_model_is_compared_in_float32(tmp_path: Path) -> None:
    model = random_model(tiny_config()).to(torch.bfloat16)
    report = export_engine(
        model, tmp_path / "tiny.lwam", start_at="latents", latent_shape=(16, 8, 8), context_rows=4,
        instructions={"go": np.ones((2, 32))}, parity_seeds=(0,),
    )  # fmt: skip
    assert report.parity is not None and report.parity.relative_error < 1e-5
    assert model.proprio_encoder.weight.dtype == torch.bfloat16
