# SPDX-License-Identifier: Apache-2.0
"""`lightwam convert` on neighbouring formats, and on outputs that are not to be replaced or cannot be read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.convert_fixtures import inputs, policy_weights, published, small_config, vae_weights
from lightwam.cli import convert as command
from lightwam.convert.checkpoint import ConvertArgs
from lightwam.convert.sources import open_weights
from lightwam.errors import CheckpointError, DataError, LightWAMError
from lightwam.model.checkpoint_folder import load_checkpoint, save_checkpoint, write_safetensors

BIAS = "proprio_encoder.bias"


@pytest.fixture
def arguments(tmp_path: Path) -> ConvertArgs:
    return replace(inputs(tmp_path), vae=None, stats=None)


def weights() -> dict[str, Tensor]:
    return policy_weights(small_config())


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def converted(arguments: ConvertArgs, content: dict[str, Any], **changes: Any) -> dict[str, Tensor]:
    assert arguments.policy is not None
    torch.save(content, arguments.policy)
    assert command.main(replace(arguments, **changes)) == 0
    return load_checkpoint(arguments.out)[1]


def test_wrappers_are_removed_and_said(arguments: ConvertArgs, capsys: pytest.CaptureFixture[str]) -> None:
    expected = weights()
    content = {"state_dict": under("model._orig_mod.", expected), "optimizer": {"state": {}}, "epoch": 3}
    made = converted(arguments, content)
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in expected)
    line = next(line for line in capsys.readouterr().out.splitlines() if "unwrapped" in line)
    assert f"unwrapped 'state_dict', '_orig_mod.', 'model.' ({len(expected)} tensors)" in line
    assert "policy.pt" in line and "left out: optimizer, epoch" in line


def test_a_choice_between_two_sets(arguments: ConvertArgs) -> None:
    live = weights()
    average = {name: value + 1 for name, value in live.items()}
    content = {"model": live, "ema": published(average)}
    with pytest.raises(
        CheckpointError, match=r"model \(\d+ tensors\), ema \(\d+ tensors\); choose one with `convert --weights`"
    ):
        converted(arguments, content)
    assert not arguments.out.exists()
    for choice, expected in (("ema", average), ("model", live)):
        assert torch.equal(converted(arguments, content, weights=choice)[BIAS], expected[BIAS])
    with pytest.raises(CheckpointError, match=r"--weights is ema, but .*policy\.pt holds no such set"):
        converted(arguments, {"model": live}, weights="ema")


def test_a_vae_of_ours_and_wrapped(tmp_path: Path, arguments: ConvertArgs) -> None:
    config = small_config()
    vae = vae_weights(config)
    save_checkpoint(tmp_path / "vae", config, under("vae.", vae))
    torch.save({"state_dict": under("module.", vae)}, tmp_path / "vae.ckpt")
    for source in (tmp_path / "vae", tmp_path / "vae.ckpt"):
        made = converted(arguments, published(weights()), vae=source)
        assert all(torch.equal(made[f"vae.{name}"], value) for name, value in vae.items())


def test_a_folder_of_ours_with_wrapped_names_loads(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "out", small_config(), weights())
    write_safetensors(under("module.", weights()), tmp_path / "out" / "model.safetensors")
    assert load_checkpoint(tmp_path / "out")[1].keys() == weights().keys()


def test_formats_follow_from_content_not_from_names(tmp_path: Path) -> None:
    tensors = {"mot.a": torch.ones(2)}
    save_file(tensors, tmp_path / "really_safetensors.pt")
    torch.save(tensors, tmp_path / "really_torch.safetensors")
    torch.save(tensors, tmp_path / "no_suffix")
    (tmp_path / "hub").mkdir()
    torch.save(tensors, tmp_path / "hub" / "pytorch_model.bin")
    for name in ("really_safetensors.pt", "really_torch.safetensors", "no_suffix", "hub"):
        assert torch.equal(open_weights(tmp_path / name).tensors["mot.a"], tensors["mot.a"]), name


def test_shards_that_torch_wrote(tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for place, name in enumerate(names):
        torch.save({f"mot.{place}": torch.full((1,), float(place))}, tmp_path / name)
    index = {"weight_map": {f"mot.{place}": name for place, name in enumerate(names)}}
    for given in (names[0], "."):
        assert sorted(open_weights(tmp_path / given).tensors) == ["mot.0", "mot.1"]
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert sorted(open_weights(tmp_path).tensors) == ["mot.0", "mot.1"]
    (tmp_path / names[1]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n")
    with pytest.raises(CheckpointError, match=f"{names[1]} is a Git LFS pointer"):
        open_weights(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{names[1]} is missing"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("policy.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n", "git lfs pull"),
        ("policy.pt", b"<!doctype html><title>404</title>", r"HTML page \('404'\)"),
        ("policy.safetensors", b'{"error": "gated"}', "JSON .*gated"),
        ("policy.safetensors", b"", "damaged: it is empty"),
        ("policy.pt", b"\x1f\x8b" + bytes(30), "gzip"),
        ("policy.gguf", b"GGUF" + bytes(30), "GGUF"),
        ("policy.engine", b"ftrt" + bytes(30), "TensorRT"),
        ("policy.zip", b"PK\x05\x06" + bytes(18), "empty zip"),
        ("policy.h5", b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"),
    ],
)
def test_files_are_named_for_what_they_are(arguments: ConvertArgs, name: str, content: bytes, told: str) -> None:
    file = arguments.out.parent / name
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is .*{told}"):
        command.main(replace(arguments, policy=file))


def test_numbers_that_the_type_cannot_hold(arguments: ConvertArgs) -> None:
    content = weights()
    content[BIAS] = content[BIAS].double()
    content[BIAS][:2] = 3.4e38  # rounds to infinity in bfloat16
    with pytest.raises(CheckpointError, match=rf"1 too large: {BIAS} 2 of 20 numbers become infinite in bfloat16"):
        converted(arguments, content, dtype="bf16")
    assert not arguments.out.exists()
    content[BIAS][3] = -1e200
    with pytest.raises(CheckpointError, match="1 of 20 numbers become infinite in float32"):
        converted(arguments, content, dtype="f32")
    assert converted(arguments, content)[BIAS][3] == -1e200


def test_a_checkpoint_that_could_not_be_used_replaces_nothing(tmp_path: Path) -> None:
    config, good = small_config(), weights()
    save_checkpoint(tmp_path / "out", config, good)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    bad = {**good, BIAS: good[BIAS].clone().index_fill_(0, torch.tensor([1]), float("nan"))}
    large = {**good, BIAS: torch.full_like(good[BIAS], 3e38)}
    for changes, told in (
        ({"weights": bad}, f"{BIAS} holds NaN or infinity"),
        ({"weights": large, "dtype": torch.float16}, f"{BIAS} 20 of 20 numbers become infinite"),
        ({"statistics": {"state": float("nan")}}, "statistics hold NaN"),
        ({"instructions": {"bad\udcff": torch.ones(2, 3)}}, "no Unicode"),
    ):
        with pytest.raises(CheckpointError, match=told):
            save_checkpoint(tmp_path / "out", config, **{"weights": good, **changes})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses the end of a file."""

    def lossy(tensors: Any, path: Path, *rest: Any) -> int:
        size = write_safetensors(tensors, path, *rest)
        path.write_bytes(path.read_bytes()[:-8])
        return size

    monkeypatch.setattr("lightwam.model.checkpoint_folder.write_safetensors", lossy)
    with pytest.raises(CheckpointError, match=r"could not be read back .*nothing was replaced"):
        save_checkpoint(tmp_path / "out", small_config(), weights())
    assert list(tmp_path.iterdir()) == []


def test_folders_of_other_libraries_are_not_replaced(arguments: ConvertArgs) -> None:
    """They have the names of our files too."""
    arguments.out.mkdir()
    (arguments.out / "config.json").write_text('{"architectures": ["UMT5EncoderModel"]}')
    (arguments.out / "model.safetensors").write_bytes(b"weights")
    for action in (lambda: command.main(arguments), lambda: save_checkpoint(arguments.out, small_config(), weights())):
        with pytest.raises(CheckpointError, match="holds other things than a checkpoint"):
            action()
    assert (arguments.out / "model.safetensors").read_bytes() == b"weights"


def test_an_input_is_not_replaced(arguments: ConvertArgs) -> None:
    assert command.main(arguments) == 0
    with pytest.raises(CheckpointError, match="which is or holds the input"):
        command.main(replace(arguments, policy=arguments.out / "model.safetensors"))
    assert load_file(arguments.out / "model.safetensors")


@pytest.mark.parametrize("name", ["stats.json", "norm_stats.json"])
def test_statistics_are_stored_in_our_form(arguments: ConvertArgs, name: str) -> None:
    config, file = small_config(), arguments.out.parent / name
    field = {"min": -1.0, "max": 2.0, "mean": 0.5, "std": 0.25}
    state, action = ({key: [value] * n for key, value in field.items()} for n in (config.state_dim, config.action_dim))
    lerobot = {"observation.state": state, "action": action}
    file.write_text(
        json.dumps(lerobot if name == "stats.json" else {"norm_stats": {"state": state, "actions": action}})
    )
    assert command.main(replace(arguments, stats=file)) == 0
    document = json.loads((arguments.out / "stats.json").read_text())
    assert document["state"]["default"] == {f"global_{key}": value for key, value in state.items()}
    assert document["action"]["default"]["global_max"] == action["max"]


def test_a_statistics_file_that_is_an_error_page(arguments: ConvertArgs) -> None:
    file = arguments.out.parent / "stats.json"
    file.write_text("<html>")
    with pytest.raises(DataError, match="HTML page"):
        command.main(replace(arguments, stats=file))


def test_a_checkpoint_folder_that_is_a_file(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "policy.pt")
    with pytest.raises(LightWAMError, match=r"is a torch\.save file: `lightwam convert` makes a folder"):
        load_checkpoint(tmp_path / "policy.pt")
    folder = tmp_path / "out"
    save_checkpoint(folder, small_config(), weights())
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a Git LFS pointer"):
        load_checkpoint(folder)
