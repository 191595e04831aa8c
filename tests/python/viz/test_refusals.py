# SPDX-License-Identifier: Apache-2.0
"""What cannot be drawn is one line that names it, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.engine_files import small_engine, write_engine
from helpers.viz_set import write_recordings
from lightwam import cli
from lightwam.model.checkpoint_folder import load_checkpoint, save_checkpoint

ATTENTION = "viz attention --checkpoint {seen}/checkpoint --data {seen}/data --out {tmp}/out"
FUTURE = ATTENTION.replace("attention", "future")
ACTIONS = "viz actions --policy {seen}/checkpoint --data {seen}/data --out {tmp}/out"
BAD = [
    (f"{ATTENTION} --episodes 0,9", "has no episodes 9: it has 2, 0 to 1; change --episodes"),
    (f"{FUTURE} --episodes last", "--episodes is 'last': write numbers and ranges"),
    (f"{ATTENTION} --every 0", "--every is 0: use at least 1"),
    (f"{ATTENTION} --frames 0", "--frames is 0"),
    (f"{ATTENTION} --top 0", "--top is 0: use a number above 0"),
    (f"{FUTURE} --windows 0", "--windows is 0"),
    (f"{FUTURE} --sampling-steps 0", "--sampling-steps is 0"),
    (f"{ACTIONS} --every -1", "--every is -1"),
    ("viz attention --checkpoint {tmp}/vae --data {seen}/data --out {tmp}/out", "holds a VAE and no policy"),
    ("viz future --checkpoint {tmp}/none --data {seen}/data --out {tmp}/out", "{tmp}/none lacks"),
    ("viz future --checkpoint {seen}/checkpoint --data {tmp}/none --out {tmp}/out", "data set {tmp}/none is missing"),
    ("viz attention --checkpoint {seen}/checkpoint --data {tmp}/other --out {tmp}/out",
     "{tmp}/other has action width 6: the configuration has 7"),
    ("viz actions --policy {tmp}/none.lwam --data {seen}/data --out {tmp}/out", "none.lwam"),
    ("viz actions --policy {tmp}/small.lwam --data {seen}/data --out {tmp}/out", "does not tell its configuration"),
    ("viz actions --policy {seen}/checkpoint --data {seen}/data --out {tmp}/mine",
     "{tmp}/mine holds other things than pictures of 'viz actions' (attention.json): nothing is replaced"),
    ("viz attention --checkpoint {seen}/checkpoint --data {seen}/data --out {seen}/data", "is or holds the input"),
    ("viz attention --checkpoint {seen}/checkpoint --data {seen}/data --out {seen}", "is or holds the input"),
]  # fmt: skip


@pytest.fixture(scope="module")
def others(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of another width, a VAE alone, an engine without a configuration, a folder of other pictures."""
    root = tmp_path_factory.mktemp("others")
    write_recordings(root / "other", action_width=6)
    config, weights = load_checkpoint(seen / "checkpoint")
    save_checkpoint(root / "vae", config, {name: x for name, x in weights.items() if name.startswith("vae.")})
    write_engine(root / "small.lwam", small_engine())
    (root / "mine").mkdir()
    (root / "mine" / "attention.json").write_text("{}")
    return root


@pytest.mark.parametrize(("words", "named"), BAD, ids=[words for words, _ in BAD])
def test_refused(words: str, named: str, seen: Path, others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(seen.rglob("*"))
    shutil.rmtree(others / "out", ignore_errors=True)
    assert cli.main(words.format(seen=seen, tmp=others).split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert named.format(seen=seen, tmp=others) in error
    assert not (others / "out").exists() and [path.name for path in (others / "mine").iterdir()] == ["attention.json"]
    assert sorted(seen.rglob("*")) == before
