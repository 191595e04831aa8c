# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders as `lightwam export` opens them: mapped, checked whole; and modules widened while they run."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.golden import random_model, randomize, tiny_config
from helpers.robots import with_square_cameras
from lightwam.cli import export as command
from lightwam.cli.export import ExportArgs
from lightwam.config import LightWAMConfig
from lightwam.engine.file import read_engine
from lightwam.engine.interpret import Interpreter
from lightwam.errors import CheckpointError, DataError, ExportError
from lightwam.export import widen
from lightwam.export.checkpoint import open_checkpoint
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.export.widen import computing_in_float32
from lightwam.model import HashedWordsEncoder, LightWAM, WanVAE
from lightwam.model.fit import MisfitError

UNUSED = "mot.mixtures.video.head.head.weight"  # no engine holds it


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy in bf16 with its VAE in f32."""
    config = LightWAMConfig.nano()
    config = with_square_cameras(config, 32)
    folder = tmp_path_factory.mktemp("checkpoint")
    vae, text = WanVAE(config.vae), HashedWordsEncoder(config.text)
    randomize(vae, "vae.")
    parts = (("", random_model(config).to(torch.bfloat16)), ("vae.", vae), ("text_encoder.", text))
    save_file({p + k: v.clone() for p, m in parts for k, v in m.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    limits = {field: {"default": {"global_min": [-1.0] * width, "global_max": [1.0] * width}}
              for field, width in (("state", 8), ("action", 7))}  # fmt: skip
    (folder / "stats.json").write_text(json.dumps(limits))
    return folder


@pytest.fixture
def checkpoint(made_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(made_once, tmp_path / "checkpoint")


def change(folder: Path, name: str, value: Tensor | None) -> None:
    weights = {key: x.clone() for key, x in load_file(folder / "model.safetensors").items()}
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    save_file(weights, folder / "model.safetensors")


def test_networks_share_the_file_and_keep_their_types(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint, replan_steps=3)
    stored = load_file(checkpoint / "model.safetensors")
    parts = (("", opened.model), ("vae.", opened.vae), ("text_encoder.", opened.text_encoder))
    held = {p + k: v for p, m in parts if m is not None for k, v in m.state_dict().items()}
    assert held.keys() == stored.keys() and all(torch.equal(held[k], v) for k, v in stored.items())
    assert all(held[k].dtype == v.dtype and not held[k].is_meta for k, v in stored.items())
    first, last = (held[name].untyped_storage().data_ptr() for name in (min(stored), UNUSED))
    assert abs(first - last) < (checkpoint / "model.safetensors").stat().st_size  # one mapping, no copies
    assert opened.config.replan_steps == 3 and not opened.vae.latent_mean.is_meta
    assert not any(module.training for module in (opened.model, opened.vae))


def test_every_misfit_is_named(checkpoint: Path) -> None:
    change(checkpoint, UNUSED, torch.full((64, 192), torch.nan, dtype=torch.bfloat16))
    change(checkpoint, "proprio_encoder.weight", torch.zeros(64, 8, dtype=torch.int64))
    change(checkpoint, "vae.model.conv1.bias", torch.zeros(3))
    change(checkpoint, "text_encoder.position", None)
    with pytest.raises(MisfitError) as caught:
        open_checkpoint(checkpoint)
    assert {(fault.kind, fault.name) for fault in caught.value.faults} == {
        ("not finite", UNUSED), ("wrong type", "proprio_encoder.weight"), ("wrong shape", "vae.model.conv1.bias"),
        ("missing", "text_encoder.position"),
    }  # fmt: skip
    assert f"1 not finite: {UNUSED} holds NaN" in str(caught.value)


def test_a_checkpoint_without_vae_or_statistics(checkpoint: Path) -> None:
    (checkpoint / "stats.json").unlink()
    with pytest.raises(DataError, match="is missing"):
        open_checkpoint(checkpoint)
    weights = {k: v.clone() for k, v in load_file(checkpoint / "model.safetensors").items() if not k.startswith("vae.")}
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="convert it again with --vae"):
        open_checkpoint(checkpoint)


def test_integer_weights_of_a_model_are_refused() -> None:
    state = {name: x.int() for name, x in random_model(tiny_config()).state_dict().items()}
    graph = build_graph(tiny_config(), StateDictWeights(state), ExportOptions(start_at="latents"))
    with pytest.raises(ExportError, match=r"has type torch\.int32"):
        next(iter(graph.constants.values())).array()


def test_instructions_beside_the_weights_are_carried(checkpoint: Path, tmp_path: Path) -> None:
    save_file({"open it": torch.ones(3, 64, dtype=torch.bfloat16)}, checkpoint / "instructions.safetensors")
    save_file({"close it": torch.ones(2, 64)}, tmp_path / "more.safetensors")
    arguments = ExportArgs(tmp_path / "a.lwam", checkpoint, precision="bf16", parity_seeds=())
    command.main(replace(arguments, instructions=tmp_path / "more.safetensors", known=("wait",)))
    policy = read_engine(tmp_path / "a.lwam").policy
    assert [known["text"] for known in policy["instructions"]] == ["open it", "close it", "wait"]
    for twice in ({"known": ("open it",)}, {"instructions": checkpoint / "instructions.safetensors"}):
        with pytest.raises(ExportError, match="'open it' is given twice"):
            command.main(replace(arguments, **twice))


def test_half_precision_checkpoint_meets_the_exact_limit(checkpoint: Path, tmp_path: Path) -> None:
    """bf16 weights in an f32 engine: the reference computes in float32, so the parity is that of f32."""
    arguments = ExportArgs(tmp_path / "a.lwam", checkpoint, parity_seeds=(0, 1))
    command.main(arguments)
    parity = read_engine(tmp_path / "a.lwam").provenance["parity"]
    assert parity["limit"] == "relative error <= 0.0001" and parity["relative_error"] < 1e-4


def chunk_of(model: LightWAM) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 16, 1, 8, 8), (1, 4, 32))
    latents, context = (torch.randn(shape, generator=generator) for shape in shapes)
    with torch.no_grad():
        return model.predict_actions(latents, context, None, torch.randn(1, 8, generator=generator))


@functools.cache
def wide_chunk() -> Tensor:
    """The chunk of a float32 copy."""
    return chunk_of(random_model(tiny_config()).to(torch.bfloat16).float().eval())


def largest_wide(model: nn.Module, seen: list[int]) -> None:
    """Note how many parameters are float32 whenever a module of the model has run."""

    def note(*_: object) -> None:
        seen.append(sum(p.numel() for p in model.parameters() if p.dtype == torch.float32))

    for module in model.modules():
        module.register_forward_hook(note)


@pytest.mark.parametrize(("small", "unit"), [(1 << 20, 1 << 26), (6000, 60_000), (6000, 6000), (6000, 1 << 30)])
def test_widened_while_they_run(monkeypatch: pytest.MonkeyPatch, small: int, unit: int) -> None:
    """Whatever is hooked and whatever stays wide: the chunk of a float32 copy to the bit, and all put back."""
    monkeypatch.setattr(widen, "_SMALL", small)
    monkeypatch.setattr(widen, "_UNIT", unit)
    model = random_model(tiny_config()).to(torch.bfloat16).eval()
    wanted = wide_chunk()
    before = {name: x.data_ptr() for name, x in model.state_dict().items()}
    seen: list[int] = []
    largest_wide(model, seen)
    with computing_in_float32(model, None):
        made = chunk_of(model)
    assert torch.equal(made, wanted)
    after = model.state_dict()
    assert all(x.dtype == torch.bfloat16 and x.data_ptr() == before[name] for name, x in after.items())
    total = sum(x.numel() for x in after.values())
    if unit == 60_000:
        assert max(seen) < total / 2  # one part at a time


def test_parameters_are_put_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widen, "_SMALL", 6000)
    model = random_model(tiny_config()).to(torch.bfloat16).eval()
    with pytest.raises(RuntimeError, match="mat1 and mat2"), computing_in_float32(model), torch.no_grad():
        model.video_dit.blocks[0].self_attn(torch.zeros(1, 2, 3), None, None, ())
    assert {x.dtype for x in model.state_dict().values()} == {torch.bfloat16}


def test_the_interpreter_keeps_what_is_asked_for() -> None:
    config = tiny_config()
    weights = StateDictWeights(random_model(config).state_dict())
    graph = build_graph(config, weights, ExportOptions(start_at="latents", latent_shape=(16, 8, 8), context_rows=4))
    full, some = Interpreter(graph, keep_trace=True), Interpreter(graph, kept=frozenset({"tokens", "expert.actions"}))
    for interpreter in (full, some):
        interpreter.set_instruction(np.ones((2, 32)))
        interpreter.act(np.ones(8), np.ones((16, 8, 8)))
    assert set(some.trace) == {"tokens", "expert.actions"} < set(full.trace)
    assert all(torch.equal(x, full.trace[name]) for name, x in some.trace.items())
