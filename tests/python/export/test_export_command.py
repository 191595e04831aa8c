# SPDX-License-Identifier: Apache-2.0
"""`lightwam export` and `lightwam inspect` from a checkpoint folder to the printed report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.golden import random_model, randomize
from helpers.robots import with_square_cameras
from lightwam.cli import export as command
from lightwam.cli import inspect, main
from lightwam.cli.export import ExportArgs
from lightwam.cli.inspect import InspectArgs
from lightwam.config import LightWAMConfig
from lightwam.engine.file import read_engine
from lightwam.errors import CheckpointError, ConfigError, EngineError, ExportError
from lightwam.model.text import HashedWordsEncoder
from lightwam.model.vae import WanVAE


def _small_nano() -> LightWAMConfig:
    """Nano with a smaller picture, so that the tests are quick."""
    config = LightWAMConfig.nano()
    return with_square_cameras(config, 32)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = _small_nano()
    model, vae, text = random_model(config), WanVAE(config.vae), HashedWordsEncoder(config.text)
    randomize(vae, "vae.")
    parts = (("", model), ("vae.", vae), ("text_encoder.", text))
    save_file({p + k: v.clone() for p, m in parts for k, v in m.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    numbers = {name: [float(i)] * 8 for i, name in enumerate(("min", "mean", "q01", "q99", "std", "max"))}
    field = {f"{kind}_{name}": x for kind in ("global", "stepwise") for name, x in numbers.items()}
    action = {name: x[:7] for name, x in field.items()}
    (folder / "stats.json").write_text(json.dumps({"state": {"default": field}, "action": {"default": action}}))
    return folder


@pytest.fixture
def checkpoint(made_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(made_once, tmp_path / "checkpoint")


def test_checkpoint_to_engine_to_report(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.lwam"
    assert command.main(ExportArgs(out=out, checkpoint=checkpoint, name="can", replan_steps=5, parity_seeds=(0,))) == 0
    assert "parity: relative error" in capsys.readouterr().out
    graph = read_engine(out)
    assert (graph.name, graph.policy["replan"], graph.policy["text_encoder"]["kind"]) == ("can", 5, "hashed_words")
    assert graph.policy["normalizer"]["state_scale"] == pytest.approx([2 / 5] * 8)
    assert len(graph.provenance["checkpoint_sha256"]) == 64
    assert inspect.main(InspectArgs(out, ops=True, savings=True, text_rows=4)) == 0
    shown = capsys.readouterr().out
    for part in (
        "can",
        "replan after 5",
        "(turned by 180 degrees)",
        "control rate   20.0 Hz",
        "g becomes sign(-(2g - 1)): -1 open, +1 close",
        "any through hashed_words",
        "machine code   none for GPUs",
        "blocks.0.self_attn.attention",
        "docs/reference/export.md",
    ):
        assert part in shown
    assert inspect.main(InspectArgs(out, json=True)) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "can"


def test_random_weights_are_reproducible_and_finite(tmp_path: Path) -> None:
    for name in ("a", "b"):
        command.main(ExportArgs(out=tmp_path / name, random="nano", precision="bf16", seed=3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for constant in read_engine(tmp_path / "a").constants.values():
        assert constant.type.dtype == "bf16" or np.isfinite(constant.array()).all()


def test_random_weights_of_a_configuration_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = tmp_path / "robot.json"
    robot.write_text(json.dumps({**_small_nano().to_dict(), "name": "mine"}))
    out = tmp_path / "a.lwam"
    assert main(["export", "--config", str(robot), "--out", str(out), "--replan-steps", "2"]) == 0
    graph = read_engine(out)
    assert (graph.name, graph.policy["canvas"], graph.policy["replan"]) == ("random-mine", [32, 64], 2)
    assert main(["export", "--config", str(robot), "--random", "nano", "--out", str(out)]) == 2
    assert "exactly one of" in capsys.readouterr().err


def test_known_instructions_come_from_a_file(checkpoint: Path, tmp_path: Path) -> None:
    rows = torch.zeros(6, 64)
    rows[:4] = 1
    save_file({"open the drawer": rows}, tmp_path / "context.safetensors")
    arguments = ExportArgs(
        out=tmp_path / "a.lwam",
        checkpoint=checkpoint,
        instructions=tmp_path / "context.safetensors",
        known=("close it",),
        parity_seeds=(),
    )
    command.main(arguments)
    graph = read_engine(tmp_path / "a.lwam")
    assert [known["text"] for known in graph.policy["instructions"]] == ["open the drawer", "close it"]
    assert graph.constants["instructions.0.context"].type.shape == (4, 64)


def test_bad_checkpoints_give_one_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ExportArgs(out=tmp_path / "a.lwam", checkpoint=checkpoint, parity_seeds=())
    with pytest.raises(ExportError, match="exactly one of --checkpoint and --random"):
        command.main(replace(arguments, random="nano"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        command.main(replace(arguments, checkpoint=tmp_path / "absent"))
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        command.main(arguments)
    weights.write_bytes(whole)
    (checkpoint / "config.json").write_text('{"name": "x"}')
    with pytest.raises(ConfigError):
        command.main(arguments)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        command.main(arguments)
    assert not (tmp_path / "a.lwam").exists()


def test_inspect_refuses_what_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "a.lwam").write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match=r"a\.lwam"):
        inspect.main(InspectArgs(tmp_path / "a.lwam"))


def test_inspect_names_a_file_that_is_too_new(tmp_path: Path) -> None:
    command.main(ExportArgs(out=tmp_path / "a.lwam", random="nano", precision="bf16"))
    old, new = (f'\\"format_version\\":{version}'.encode() for version in (1, 2))
    whole = (tmp_path / "a.lwam").read_bytes()
    assert old in whole
    (tmp_path / "a.lwam").write_bytes(whole.replace(old, new, 1))
    with pytest.raises(EngineError, match=r"a\.lwam: format is .* install a newer lightwam"):
        inspect.main(InspectArgs(tmp_path / "a.lwam"))
