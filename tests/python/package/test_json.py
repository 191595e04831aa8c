# SPDX-License-Identifier: Apache-2.0
"""One strict reader for every JSON: what is no JSON is an error of the reader's own type, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightwam import files
from lightwam.config import LightWAMConfig
from lightwam.config.policy import preset
from lightwam.config.read import read_config
from lightwam.convert.sources import open_weights
from lightwam.data.lerobot import open_dataset
from lightwam.data.normalize import Normalizer, read_statistics
from lightwam.engine.file import read_engine
from lightwam.errors import CheckpointError, ConfigError, DataError, EngineError, LightWAMError
from lightwam.files import parse_json, read_json
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.runtime.tuning import read_tunings
from lightwam.sim.reports import read_report

HOSTILE = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "65 levels": "[" * 65 + "]" * 65,
    "a key twice": '{"a": 1, "b": 2, "a": 3}',
    "a key twice, inside": '[{"x": {"a": 1, "a": 1}}]',
    "NaN": '{"a": NaN}',
    "infinity": '{"a": [-Infinity]}',
    "a real out of range": '{"a": 1e999}',
    "an integer out of range": '{"a": 1' + "0" * 400 + "}",
    "an integer of 5000 digits": '{"a": ' + "9" * 5000 + "}",
    "half a pair": r'{"a": "\ud800"}',
    "half a pair in a key": r'[{"\udfff": 1}]',
    "half a pair in a list": r'{"a": [["\uDBFF"]]}',
    "a control character": '{"a": "\x01"}',
    "cut off": '{"a": [1, 2',
    "nothing": "",
    "two documents": "{} {}",
    "a comma too many": "[1,]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_json_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64) is not None
    assert parse_json(rb'{"a": [1, -0.5e3, null, true], "b": "\ud83d\ude00"}') == {
        "a": [1, -500.0, None, True],
        "b": "😀",
    }
    assert parse_json("1" + "0" * 300) == 10**300
    with pytest.raises(ValueError, match="byte 1 is not valid UTF-8"):
        parse_json(b'"\xff"')


READERS: dict[str, tuple[str, Callable[[Path], Any], type[Exception]]] = {
    "configuration": ("c.json", read_config, ConfigError),
    "statistics": ("s.json", read_statistics, DataError),
    "weight index": ("m.safetensors.index.json", open_weights, CheckpointError),
    "report": ("r.json", read_report, DataError),
    "tuning": ("x.lwam.tuning.json", lambda path: read_tunings(path.with_name("x.lwam")), ValueError),
    "checkpoint": ("config.json", lambda path: load_checkpoint(path.parent), CheckpointError),
    "data set": ("meta/info.json", lambda path: open_dataset(path.parent.parent), DataError),
    "engine": ("x.lwam", read_engine, EngineError),
}


#: Statistics with these are read, and refused by the name of the entry (tests/python/convert/test_convert_refuses.py).
NOT_FINITE = ("NaN", "infinity", "a real out of range", "an integer out of range", "an integer of 5000 digits")


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        pytest.param(reader, text, id=f"{reader}-{name}")
        for reader in READERS
        for name, text in HOSTILE.items()
        if not (reader == "statistics" and name in NOT_FINITE)
    ],
)
def test_every_reader_says_so_in_its_own_words(tmp_path: Path, reader: str, text: str) -> None:
    name, read, error = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(len(content).to_bytes(8, "little") + content if reader == "engine" else content)
    with pytest.raises(error) as caught:
        read(path)
    message = str(caught.value)
    assert type(caught.value) is error and "\n" not in message and len(message) < 800
    assert str(path) in message or str(tmp_path) in message


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 1000)
    (tmp_path / "long.json").write_text(f'["{"x" * 1000}"]')
    with pytest.raises(DataError, match=r"long\.json is unreadable \(it has more than 1000 bytes\)"):
        read_json(tmp_path / "long.json", "report", DataError, "make it again")
    with pytest.raises(DataError, match=r"report /dev/zero is not an ordinary file .*: give a file"):
        read_json(Path("/dev/zero"), "report", DataError, "make it again")


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), float("nan"), float("inf"), 10**5000], ids=["huge", "low", "nan", "inf", "digits"]
)
def test_numbers_that_no_float_holds(number: float) -> None:
    document = preset("nano").to_dict()
    document["flow_matching"]["shift"] = number
    with pytest.raises(ConfigError, match=r"shift is .*: give a finite number"):
        LightWAMConfig.from_dict(document)
    entries = {f"global_{name}": [number] for name in ("min", "max")}
    with pytest.raises(DataError, match="global_min"):
        Normalizer.from_statistics({"state": {"default": entries}}, "state", "min/max", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 10**30},
        {"horizon": [[1] * 10_000]},
        {"name": {"a": "x" * 100_000}},
        {"video_dit": {"num_layers": 10**400}},
    ],
    ids=["a huge whole number", "a long list", "a long text", "no float either"],
)
def test_a_bad_value_is_named_but_not_all_of_it(changes: dict[str, Any]) -> None:
    document = preset("nano").to_dict()
    for name, value in changes.items():
        document[name] = {**document[name], **value} if name == "video_dit" else value
    with pytest.raises(ConfigError) as caught:
        LightWAMConfig.from_dict(document)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "changes",
    [
        {"vae_z_dim": 1e300},
        {"vae_z_dim": 10**9},
        {"action_dim": 10**400},
        {"scheduler": {"num_train_timesteps": 10**12}},
        {"video_dit_config": {"num_layers": 10**400}},
        {"video_dit_config": False},
    ],
    ids=["huge", "large", "digits", "steps", "layers", "no mapping"],
)
def test_published_sizes_are_bounded(changes: dict[str, Any]) -> None:
    path = Path(__file__).parents[2] / "data" / "golden" / "full_config.json"
    published = read_json(path, "configuration", ConfigError, "")
    for name, value in changes.items():
        published[name] = {**published[name], **value} if isinstance(value, dict) and name in published else value
    with pytest.raises(LightWAMError):
        LightWAMConfig.from_published(published)
