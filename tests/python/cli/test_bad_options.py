# SPDX-License-Identifier: Apache-2.0
"""Options and files that cannot work: every verb answers with one line that names them, and exit status 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightwam import cli

TRAIN_VAE = "train vae --data none --out {tmp}/run --cache {tmp}/cache"
TRAIN_POLICY = "train policy --data none --vae none --out {tmp}/run --cache {tmp}/cache"
BAD = [
    ("export --random nano --seed -1 --out {tmp}/a.lwam", "seed -1"),
    ("export --checkpoint none --parity-seeds -1 --out {tmp}/a.lwam", "parity seeds (-1,)"),
    ("export --random nano --known dance --out {tmp}/a.lwam", "--known"),
    ("export --random nano --out {tmp}/file/a.lwam", "{tmp}/file"),
    ("inspect {tmp}/file --text-rows -1", "--text-rows is -1"),
    ("bench --image-size 70000", "70000"),
    ("bench --device orin", "--device orin is a GPU of --roofline"),
    ("bench --roofline --device cuda", "--device cuda is no GPU that --roofline knows"),
    ("bench --device cuda --threads 2", "--threads (2,)"),
    ("bench --device cuda", "has no machine code for a GPU"),
    ("demo --device cuda --out {tmp}/demo", "has no machine code for a GPU"),
    ("eval --policy {tmp}/good.npz --device cuda", "good.npz runs on the CPU only"),
    ("record --out {tmp}/set --device auto", "--device auto is for --policy"),
    ("record --out {tmp}/set --seed -1", "seed -1"),
    ("record --out {tmp}/set --placements far", "'far': choose one of wide, nominal"),
    ("eval --policy none.lwam --sim moon --out {tmp}/a.json", "unknown simulator 'moon'"),
    ("demo --sheet-columns 1 --out {tmp}/demo", "--sheet-columns 1"),
    ("record --out {tmp}/set --image-size 0", "image size 0"),
    ("record --out {tmp}/file/set --episodes 1", "{tmp}/file"),
    ("eval --policy {tmp}/noise.npz", "noise.npz"),
    ("eval --policy {tmp}/replay.npz", "replay.npz"),
    ("eval --policy none.lwam --out {tmp}/file/report.json", "{tmp}/file/report.json"),
    ("eval --policy none.lwam --out {tmp}", "{tmp}"),
    ("demo --out {tmp}/file", "{tmp}/file/report.json"),
    ("train vae --data --out {tmp}/run --cache {tmp}/cache", "no data set"),
    *((f"{TRAIN_VAE} {option}", option.split()[0]) for option in (
        "--batch 0", "--batch -1", "--steps -5", "--threads 0", "--seed -1", "--save-every 0", "--held-out 1.0",
        "--held-out nan", "--clip-batch 0",
    )),
    *((f"{TRAIN_POLICY} {option}", option.split()[0]) for option in (
        "--batch 0", "--future-stride 0", "--log-every 0", "--save-every 0", "--video-batch -1", "--stop-after 0",
    )),
    ("train blind --data none --out {tmp}/b.npz --layers 0", "--layers"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "named"), BAD, ids=[words for words, _ in BAD])
def test_bad_options_are_one_line(words: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    (tmp_path / "noise.npz").write_bytes(b"noise" * 20)
    np.savez(tmp_path / "replay.npz", kind="replay")
    np.savez(tmp_path / "good.npz", kind="replay", actions=np.zeros((3, 7)))
    assert cli.main(words.format(tmp=tmp_path).split()) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and named.format(tmp=tmp_path) in error
