# SPDX-License-Identifier: Apache-2.0
"""Damaged, foreign and hostile inputs of `lightwam convert`: one line, all faults in one table, nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.convert_fixtures import TEXT, inputs, policy_weights, published, small_config
from lightwam import cli
from lightwam.cli import convert as command
from lightwam.convert import checkpoint
from lightwam.convert.checkpoint import ConvertArgs
from lightwam.convert.instructions import cache_name
from lightwam.convert.sources import open_weights
from lightwam.errors import CheckpointError, DataError, LightWAMError
from lightwam.model.fit import MisfitError, is_finite

FUSED = "state_fusion_action_expert.fused_proj.weight"


@pytest.fixture
def arguments(tmp_path: Path) -> ConvertArgs:
    return inputs(tmp_path)


def refused(arguments: ConvertArgs, named: str) -> LightWAMError:
    """The error of a conversion that leaves nothing behind."""
    before = sorted(arguments.out.parent.iterdir())
    with pytest.raises(LightWAMError, match=named) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value)
    assert sorted(arguments.out.parent.iterdir()) == before
    return caught.value


class Hostile:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(tmp_path: Path, arguments: ConvertArgs, zipped: bool) -> None:
    content = {**published(policy_weights(small_config())), "step": Hostile(tmp_path / "made")}
    torch.save(content, tmp_path / "policy.pt", _use_new_zipfile_serialization=zipped)
    error = refused(arguments, "nothing in it was run")
    assert isinstance(error, CheckpointError) and "mkdir" in str(error)
    assert not (tmp_path / "made").exists()


def test_files_of_the_format_before_1_6_are_read(tmp_path: Path, arguments: ConvertArgs) -> None:
    torch.save(published(policy_weights(small_config())), tmp_path / "policy.pt", _use_new_zipfile_serialization=False)
    assert command.main(arguments) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["policy.pt", "vae.pth"])
def test_truncated_torch_files(tmp_path: Path, arguments: ConvertArgs, name: str, share: float) -> None:
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    refused(arguments, f"{name} is damaged")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {3: torch.zeros(1)}])
def test_torch_files_of_something_else(tmp_path: Path, arguments: ConvertArgs, content: object) -> None:
    torch.save(content, tmp_path / "policy.pt")
    refused(arguments, "must be a dict of named tensors")


def test_every_fault_is_in_one_table(
    tmp_path: Path, arguments: ConvertArgs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    weights = policy_weights(small_config())
    weights[FUSED][3, 4] = float("nan")
    weights["proprio_encoder.bias"][0] = float("-inf")
    weights["mot.mixtures.video.head.head.bias"] = torch.zeros(3)
    weights["proprio_encoder.weight"] = weights["proprio_encoder.weight"].int()
    weights["mot.mixtures.video.surplus"] = torch.zeros(1)
    for block in range(3):
        del weights[f"mot.mixtures.video.blocks.{block}.modulation"]
    nested = published(weights)
    nested["mot"]["note"] = "no tensor"
    torch.save(nested, tmp_path / "policy.pt")
    error = refused(arguments, "3 missing: mot.mixtures.video.blocks.0.modulation")
    assert isinstance(error, MisfitError)
    for part in ("2 unknown", "1 wrong shape: mot.mixtures.video.head.head.bias [3] instead of [64]",
                 "1 wrong type: proprio_encoder.weight (int32)", "1 not a tensor: mot.note (str)",
                 f"2 not finite: {FUSED} holds NaN"):  # fmt: skip
        assert part in str(error), part
    assert len(error.faults) == 10
    words = [f"--{name}={value}" for name in ("out", "config", "policy") if (value := getattr(arguments, name))]
    assert cli.main(["convert", *words]) == 2
    *table, line = capsys.readouterr().err.strip().splitlines()
    for fault in error.faults:
        assert sum(row.startswith(f"{fault.kind} ") and f" {fault.name} " in f"{row} " for row in table) == 1, fault
    assert line.startswith("lightwam convert: MisfitError")


def test_names_that_hold_anything(tmp_path: Path, arguments: ConvertArgs, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("proprio_encoder.a\nb", "proprio_encoder.[/red]", "proprio_encoder.\x1b[2J")
    weights = {**policy_weights(small_config()), **{name: torch.zeros(1) for name in names}}
    torch.save(published(weights), tmp_path / "policy.pt")
    error = refused(arguments, "3 unknown")
    assert r"a\nb" in str(error) and r"\x1b[2J" in str(error)
    words = [f"--{name}={getattr(arguments, name)}" for name in ("out", "config", "policy")]
    assert cli.main(["convert", *words]) == 2
    shown = capsys.readouterr().err
    assert "[/red]" in shown.split("lightwam convert")[0] and "\x1b" not in shown


def test_a_key_in_two_inputs(tmp_path: Path, arguments: ConvertArgs) -> None:
    weights = policy_weights(small_config())
    torch.save({**weights, "vae.model.conv1.bias": torch.zeros(32)}, tmp_path / "policy.pt")
    refused(arguments, "1 given twice: vae.model.conv1.bias .again as conv1.bias in vae.pth")


def test_a_group_that_is_absent(tmp_path: Path, arguments: ConvertArgs) -> None:
    nested = published(policy_weights(small_config()))
    del nested["proprio_encoder"]
    torch.save(nested, tmp_path / "policy.pt")
    refused(arguments, "proprio_encoder")


def shards(folder: Path) -> list[Path]:
    """The small policy in two shards with an index."""
    weights = policy_weights(small_config())
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = (sorted(weights)[::2], sorted(weights)[1::2])
    for name, half in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in half}, folder / name)
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / name for name in names]


@pytest.mark.parametrize("given", ["folder", "index", "shard"])
@pytest.mark.parametrize("indexed", [True, False])
def test_shards(tmp_path: Path, arguments: ConvertArgs, given: str, indexed: bool) -> None:
    (tmp_path / "s").mkdir()
    first, second = shards(tmp_path / "s")
    index = tmp_path / "s/model.safetensors.index.json"
    if not indexed:
        index.unlink()
        given = given.replace("index", "folder")
    path = {"folder": tmp_path / "s", "index": index, "shard": second}[given]
    arguments = replace(arguments, policy=path)
    assert command.main(arguments) == 0
    kept = first.read_bytes()
    first.write_bytes(kept[: len(kept) // 2])
    refused(arguments, "model-00001-of-00002.safetensors is damaged")
    first.unlink()
    refused(arguments, "model-00001-of-00002.safetensors")


def test_indices_that_do_not_fit(tmp_path: Path, arguments: ConvertArgs) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    first, second = shards(folder)
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    arguments = replace(arguments, policy=folder)

    def with_map(weight_map: object) -> ConvertArgs:
        index.write_text(json.dumps({"weight_map": weight_map}))
        return arguments

    right = document["weight_map"]
    key = min(name for name, shard in right.items() if shard == first.name)
    refused(with_map({**right, key: second.name}), f"differ in 1 tensors .{key}")
    refused(with_map({name: shard for name, shard in right.items() if name != key}), f"differ in 1 tensors .{key}")
    refused(with_map({**right, "more": first.name}), "differ in 1 tensors .more")
    refused(with_map({**right, "more": "../policy.pt"}), "a shard lies beside its index")
    refused(with_map([]), "no weight_map")
    index.write_text("{")
    refused(arguments, "index.json is unreadable")
    index.unlink()
    (folder / "other.safetensors").write_bytes(first.read_bytes())
    refused(arguments, "several sets of weights")


def test_paths_that_hold_no_weights(tmp_path: Path, arguments: ConvertArgs) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "policy.zip").write_bytes(b"")
    for name, named in (("nowhere", "does not exist"), ("empty", "no .safetensors"), ("policy.zip", "is empty")):
        with pytest.raises(CheckpointError, match=named):
            open_weights(tmp_path / name)


def test_folders_of_others_are_not_replaced(tmp_path: Path, arguments: ConvertArgs) -> None:
    arguments.out.mkdir()
    (arguments.out / "thesis.txt").write_text("years of work")
    refused(arguments, "holds other things than a checkpoint")
    assert (arguments.out / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"policy": None}, "exactly one of --policy and --dit"),
        ({"dit": Path("x")}, "exactly one of --policy and --dit"),
        ({"policy": None, "dit": Path("x")}, "--fresh SEED"),
        ({"fresh": 1}, "--fresh SEED"),
        ({"policy": None, "dit": Path("x"), "fresh": -1}, "--fresh is -1"),
        ({"instructions": ("go",)}, "--text-encoder or --text-cache"),
        ({"text_cache": Path("x")}, "--text-encoder or --text-cache"),
        ({"instructions": ("go",), "text_encoder": Path("x")}, "--tokenizer"),
        ({"instructions": ("go", "go"), "text_cache": Path("x")}, "given twice"),
        ({"instructions": (" ",), "text_cache": Path("x")}, "give a sentence"),
        ({"instructions": ("go",), "text_cache": Path("x")}, "text cache of 'go' is missing"),
        ({"instructions": ("go",), "text_encoder": Path("x"), "tokenizer": Path("x")}, "tokenizer"),
    ],
)
def test_options_that_contradict_each_other(arguments: ConvertArgs, change: dict[str, Any], named: str) -> None:
    refused(replace(arguments, **change), named)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_statistics_that_are_not_finite(arguments: ConvertArgs, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere, also where the configuration's normalisation does not look; no weight has been opened by then."""
    monkeypatch.setattr(checkpoint, "open_weights", lambda _: pytest.fail("weights were opened"))
    assert arguments.stats is not None
    document = json.loads(arguments.stats.read_text())
    document["action"]["default"]["stepwise_std"][3] = "here"
    arguments.stats.write_text(json.dumps(document).replace('"here"', number))
    error = refused(arguments, r"stats\.json: action\.default\.stepwise_std\.3 is NaN or infinite")
    assert isinstance(error, DataError)


@pytest.mark.parametrize(
    ("kind", "zipped"), [("meta", True), ("meta", False), ("sparse", True), ("sparse", False), ("nested", True)]
)
def test_tensors_that_hold_no_plain_numbers(tmp_path: Path, arguments: ConvertArgs, kind: str, zipped: bool) -> None:
    """PyTorch itself cannot read back a nested tensor that it saved in the format before 1.6."""
    weights = policy_weights(small_config())
    dense = weights[FUSED]
    weights[FUSED] = {
        "meta": dense.to("meta"), "sparse": dense.to_sparse(), "nested": torch.nested.nested_tensor([dense]),
    }[kind]  # fmt: skip
    for content in (published(weights), weights):
        torch.save(content, tmp_path / "policy.pt", _use_new_zipfile_serialization=zipped)
        error = refused(arguments, rf"policy\.pt: {FUSED} is a {kind} tensor")
        assert isinstance(error, CheckpointError)


def test_parts_that_no_released_file_holds(tmp_path: Path, arguments: ConvertArgs) -> None:
    more = {"optimizer": {"state": torch.zeros(1)}, "ema": torch.zeros(1)}
    torch.save({**published(policy_weights(small_config())), **more}, tmp_path / "policy.pt")
    refused(arguments, "2 unknown: optimizer.state, ema")


def test_settings_beside_a_torch_file_are_not_its_own(tmp_path: Path, arguments: ConvertArgs) -> None:
    """Official releases keep the VAE's and umT5's .pth beside the config.json of the DiT."""
    assert (tmp_path / "config.json").exists()
    assert open_weights(tmp_path / "vae.pth").settings == {}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"mask": torch.ones(12, dtype=torch.bool)}, "context is NoneType"),
        ({"context": torch.ones(12, 19), "mask": torch.ones(12, dtype=torch.bool)}, r"context is \[12, 19\]"),
        ({"context": torch.ones(12, 20), "mask": torch.ones(12)}, "mask must be 12 booleans"),
        ({"context": torch.ones(12, 20), "mask": torch.zeros(12, dtype=torch.bool)}, "is zero"),
        ({"context": torch.full((12, 20), torch.nan), "mask": torch.ones(12, dtype=torch.bool)}, "NaN"),
    ],
)
def test_broken_text_caches(tmp_path: Path, arguments: ConvertArgs, content: dict[str, Any], named: str) -> None:
    torch.save(content, tmp_path / cache_name(TEXT, "go"))
    refused(replace(arguments, instructions=("go",), text_cache=tmp_path), named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_anywhere_is_found(dtype: torch.dtype, bad: float) -> None:
    for place in (0, 5, 1000, 4098):
        numbers = torch.randn(4099, dtype=torch.float64).to(dtype)
        assert is_finite(numbers) and is_finite(numbers[:0])
        numbers[place] = bad
        assert not is_finite(numbers) and not is_finite(numbers.reshape(1, -1).t())
