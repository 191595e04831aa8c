# SPDX-License-Identifier: Apache-2.0
"""`lightwam convert` from released files to a checkpoint folder, and back: no byte changes unless asked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.convert_fixtures import (
    TEXT,
    inputs,
    policy_weights,
    published,
    random_weights,
    small_config,
    statistics,
    vae_weights,
)
from helpers.released import load_backbone
from lightwam import cli
from lightwam.cli import convert as command
from lightwam.config import LightWAMConfig, read_config
from lightwam.convert.checkpoint import ConvertArgs
from lightwam.convert.instructions import cache_name
from lightwam.errors import ConfigError, DataError
from lightwam.export.checkpoint import open_checkpoint
from lightwam.model import LightWAM
from lightwam.model.checkpoint_folder import load_checkpoint, save_checkpoint, write_safetensors
from lightwam.model.fresh import fresh_parts


@pytest.fixture
def arguments(tmp_path: Path) -> ConvertArgs:
    return inputs(tmp_path)


def test_round_trip_changes_no_byte(tmp_path: Path, arguments: ConvertArgs) -> None:
    """Our checkpoint, its published form, converted: the same file, types included (bf16 policy, f32 VAE)."""
    config = small_config()
    weights = {**policy_weights(config), **{f"vae.{name}": x for name, x in vae_weights(config).items()}}
    save_checkpoint(tmp_path / "ours", config, weights)
    assert command.main(arguments) == 0
    assert (arguments.out / "model.safetensors").read_bytes() == (tmp_path / "ours/model.safetensors").read_bytes()
    assert (arguments.out / "config.json").read_bytes() == (tmp_path / "ours/config.json").read_bytes()
    assert json.loads((arguments.out / "stats.json").read_text()) == statistics(config)
    assert sorted(entry.name for entry in arguments.out.iterdir()) == ["config.json", "model.safetensors", "stats.json"]
    again = replace(arguments, policy=arguments.out / "model.safetensors", vae=None, out=tmp_path / "again")
    assert command.main(again) == 0
    assert (again.out / "model.safetensors").read_bytes() == (arguments.out / "model.safetensors").read_bytes()


def test_the_types_change_only_when_asked(arguments: ConvertArgs) -> None:
    command.main(replace(arguments, dtype="f32"))
    wide = load_checkpoint(arguments.out)[1]
    command.main(replace(arguments, dtype="bf16"))
    narrow = load_checkpoint(arguments.out)[1]
    given = policy_weights(small_config())
    assert {x.dtype for x in wide.values()} == {torch.float32} and {x.dtype for x in narrow.values()} == {
        torch.bfloat16
    }
    assert all(torch.equal(wide[name], x.float()) and torch.equal(narrow[name], x) for name, x in given.items())


def test_without_vae_and_statistics(arguments: ConvertArgs, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(replace(arguments, vae=None, stats=None))
    printed = capsys.readouterr().out
    assert "give --vae" in printed and "give --stats" in printed
    assert set(load_checkpoint(arguments.out)[1]) == set(policy_weights(small_config()))
    assert cli.main(["export", "--checkpoint", str(arguments.out), "--out", str(arguments.out / "a.lwam")]) == 2
    assert "holds no VAE" in capsys.readouterr().err


def test_small_policy_with_its_own_text_encoder(tmp_path: Path) -> None:
    """A policy of the bundled kind: hashed words are part of its weights, and umT5 rows are refused."""
    config = LightWAMConfig.nano()
    weights = policy_weights(config)
    text = {"text_encoder.embedding": torch.ones(1024, 64), "text_encoder.position": torch.ones(24, 64)}
    save_file({**weights, **text}, tmp_path / "model.safetensors")
    arguments = ConvertArgs(tmp_path / "out", "nano", policy=tmp_path / "model.safetensors")
    assert command.main(arguments) == 0
    with pytest.raises(ConfigError, match="encodes words by itself"):
        command.main(replace(arguments, instructions=("go",), text_cache=tmp_path))


def test_fresh_parts_leave_the_backbone_as_released(tmp_path: Path, arguments: ConvertArgs) -> None:
    config = small_config()
    backbone = random_weights(LightWAM(config).video_dit)
    backbone = {name: x for name, x in backbone.items() if "lora_" not in name and "wam_adapters" not in name}
    torch.save(backbone, tmp_path / "dit.pth")
    command.main(replace(arguments, policy=None, dit=tmp_path / "dit.pth", fresh=3))
    checkpoint = open_checkpoint(arguments.out)
    other = LightWAM(config)
    load_backbone(other, backbone)
    generator = torch.Generator().manual_seed(0)
    given = (torch.randn(1, 16, 1, 4, 8, generator=generator), torch.randn(1, 5, 20, generator=generator))
    with torch.no_grad():
        tokens = [
            model.run_blocks(model.prepare(given[0], torch.tensor([0.0]), given[1], None)).tokens_BSD
            for model in (checkpoint.model.video_dit, other.video_dit)
        ]
    # The same function; where the weights lie in memory may decide the last bit of a product.
    assert (tokens[0] - tokens[1]).abs().max() <= 1e-6 * tokens[1].abs().max()
    first, again, another = (fresh_parts(config, seed) for seed in (3, 3, 4))
    stored = load_checkpoint(arguments.out)[1]
    assert all(torch.equal(stored[name], x) and torch.equal(again[name], x) for name, x in first.items())
    name = "state_fusion_action_expert.fused_proj.weight"
    assert not torch.equal(first[name], another[name])


def test_instructions_of_the_published_cache(tmp_path: Path, arguments: ConvertArgs) -> None:
    text = "open the drawer"
    rows, mask = torch.randn(12, 20).bfloat16(), torch.arange(12) < 5
    digest = hashlib.sha256(TEXT.prompt_template.replace("{task}", text).encode()).hexdigest()
    file = tmp_path / f"{digest}.t5_len12.wan21t2v13b.pt"
    assert cache_name(TEXT, text) == file.name
    torch.save({"context": rows, "mask": mask}, file)
    command.main(replace(arguments, instructions=(text,), text_cache=tmp_path))
    known = load_file(arguments.out / "instructions.safetensors")
    assert list(known) == [text] and torch.equal(known[text], rows[:5])
    assert torch.equal(open_checkpoint(arguments.out).instructions[text], rows[:5])


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_writer_writes_what_the_library_does(tmp_path: Path, dtype: torch.dtype | None) -> None:
    tensors = {
        "wide": torch.randn(3, 5, dtype=torch.float64), "b": torch.randn(7), "a": torch.randn(4, 2).t(),
        "half": torch.randn(3).half(), "brain": torch.randn(1, 1).bfloat16(), "scalar": torch.tensor(2.0),
        "put the \"größte\" can\n": torch.zeros(2, 0), "expanded": torch.ones(1).expand(5, 3),
    }  # fmt: skip
    heard: list[int] = []
    size = write_safetensors(tensors, tmp_path / "ours", dtype, heard.append)
    save_file({name: x.to(dtype or x.dtype).contiguous().clone() for name, x in tensors.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert size == (tmp_path / "ours").stat().st_size and len(heard) == len(tensors)


def test_statistics_need_only_what_the_mode_reads(tmp_path: Path, arguments: ConvertArgs) -> None:
    config = small_config()
    document = statistics(config)
    for field in ("state", "action"):
        kept = ("global_min", "global_max")
        document[field]["default"] = {k: v for k, v in document[field]["default"].items() if k in kept}
    assert arguments.stats is not None
    arguments.stats.write_text(json.dumps(document))
    command.main(arguments)
    checkpoint = open_checkpoint(arguments.out)
    from lightwam.export.policy import Normalization

    made = Normalization.from_statistics(checkpoint.config, checkpoint.statistics)
    assert made.state_scale == pytest.approx([2 / 4] * 8) and made.action_offset == pytest.approx([-1.0] * 7)


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("global_max", None, "state lack global_max, which normalisation 'min/max' needs"),
        ("global_max", [1.0] * 7, "give 8 finite numbers"),
        ("global_max", [float("inf")] * 8, r"state\.default\.global_max\.0 is NaN or infinite"),
        ("global_max", ["much"] * 8, "something other than numbers"),
        ("global_min", [9.0] * 8, r"min\[0\] is 9.0 above max 4.0"),
    ],
)
def test_broken_statistics_are_one_line(arguments: ConvertArgs, entry: str, value: object, named: str) -> None:
    document = statistics(small_config())
    document["state"]["default"][entry] = value
    if value is None:
        del document["state"]["default"][entry]
    assert arguments.stats is not None
    arguments.stats.write_text(json.dumps(document))
    with pytest.raises(DataError, match=named) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value) and not arguments.out.exists()


def test_published_configuration_file(tmp_path: Path) -> None:
    full = Path(__file__).parents[2] / "data/golden/full_config.json"
    made = read_config(str(full))
    assert made == replace(LightWAMConfig.libero(), name="published", loss=made.loss, video=made.video)
    for content in ("{", "[]", '{"name": 3}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError):
            read_config(str(tmp_path / "config.json"))
    with pytest.raises(ConfigError, match="no preset"):
        read_config("liberoo")


def test_published_form_keeps_every_tensor() -> None:
    weights = policy_weights(small_config())
    nested = published(weights)
    assert sum(len(nested[group]) for group in ("mot", "state_fusion_action_expert", "proprio_encoder")) == len(weights)
