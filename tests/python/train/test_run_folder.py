# SPDX-License-Identifier: Apache-2.0
"""A run's folder: one process at a time, saves whole or not there, nothing of others touched."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from lightwam.cli import main
from lightwam.errors import CheckpointError, RunFolderError, TrainingError
from lightwam.files import replace_link
from lightwam.identity import Fingerprint, differences
from lightwam.lock import FolderLock
from lightwam.train import run_folder
from lightwam.train.fingerprint import compare, make_fingerprint, tensors_identity
from lightwam.train.run_folder import Keep, RunFolder, check_run_folder, fingerprint_of, saves_of
from lightwam.train.state import TrainingState, random_state, restore_random_state, seed_rank

FINGERPRINT: Fingerprint = {"seed": 1, "data.0": "abc", "recipe.batch": 4}


def state(step: int, value: float | None = None) -> TrainingState:
    weights = {"w": torch.full((3,), float(step) if value is None else value)}
    return TrainingState(
        step=step, weights=weights, optimizer={"w": {"step": torch.tensor(float(step)), "exp_avg": torch.ones(3)}},
        position={"epoch": 1, "batch": step}, rng=[random_state()], history={"loss": [(step, 0.5)]},
    )  # fmt: skip


def checkpoint(text: str = "weights") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "model.txt").write_text(text)

    return write


def opened(out: Path, **options: Any) -> RunFolder:
    fingerprint = options.pop("fingerprint", FINGERPRINT)
    return RunFolder(out, options.pop("kind", "policy"), fingerprint, **options)


def filled(out: Path, *steps: int, **options: Any) -> Path:
    with opened(out, **options) as folder:
        for step in steps:
            folder.save(state(step), checkpoint(f"of step {step}"), {"error": 1 / step})
    return out


def test_the_newest_save_is_what_a_run_goes_on_from(tmp_path: Path) -> None:
    out = tmp_path / "runs/policy"
    with opened(out) as folder:
        assert folder.resume() is None
    filled(out, 2, 4)
    with opened(out) as folder:
        found = folder.resume()
    assert found is not None and found.step == 4 and found.position == {"epoch": 1, "batch": 4}
    assert torch.equal(found.weights["w"], torch.full((3,), 4.0)) and found.history == {"loss": [(4, 0.5)]}
    assert (out / "checkpoint/model.txt").read_text() == "of step 4"
    assert os.readlink(out / "checkpoint") == "saves/step_00000004/checkpoint"  # the folder may be moved
    assert fingerprint_of(out / "checkpoint") == FINGERPRINT
    moved = out.rename(tmp_path / "elsewhere")
    with opened(moved) as folder:
        assert (resumed := folder.resume()) is not None and resumed.step == 4
    assert (moved / "checkpoint/model.txt").is_file()


def test_the_last_saves_and_the_best_stay(tmp_path: Path) -> None:
    keep = Keep(last=2, best="error")
    with opened(tmp_path, keep=keep) as folder:
        for step, error in ((1, 0.5), (2, 0.1), (3, 0.3), (4, 0.2), (5, 0.4)):
            folder.save(state(step), checkpoint(str(step)), {"error": error})
    assert [save.step for save in saves_of(tmp_path)] == [2, 4, 5]
    assert (tmp_path / "best/model.txt").read_text() == "2" and (tmp_path / "checkpoint/model.txt").read_text() == "5"
    with opened(tmp_path, keep=Keep(last=1, best="error", larger_is_better=True)) as folder:
        folder.save(state(6), checkpoint("6"), {"error": 0.05})
    assert [save.step for save in saves_of(tmp_path)] == [5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "best", "checkpoint", "run.json", "saves"]


def test_a_step_that_is_saved_stays_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with opened(tmp_path) as folder:
        folder.save(state(3, 9.0), checkpoint("again"))
    assert (tmp_path / "checkpoint/model.txt").read_text() == "of step 3"


@pytest.mark.parametrize("content", ["photo.jpg", ".hidden", "checkpoint/model.safetensors", "saves/step_00000001/x"])
def test_a_folder_of_other_things_is_refused_and_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    for use in (lambda: check_run_folder(tmp_path, "policy"), lambda: opened(tmp_path).__enter__()):
        with pytest.raises(RunFolderError, match=f"holds '{Path(content).parts[0]}', which is not of a training run"):
            use()
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_what_stands_in_place_of_a_link_stays(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/mine.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="checkpoint is not the link of a run: move it away"):
        filled(tmp_path, 2)
    with pytest.raises(FileExistsError):
        replace_link(tmp_path / "checkpoint", "saves")
    assert (tmp_path / "checkpoint/mine.txt").read_text() == "precious"


def test_other_kinds_of_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="is a file: give a folder"):
        check_run_folder(tmp_path / "file", "policy")
    with pytest.raises(RunFolderError, match="file is no folder that you may write in"):
        check_run_folder(tmp_path / "file/run", "policy")
    filled(tmp_path / "run", 1)
    with pytest.raises(RunFolderError, match="holds a run of `train policy`, not of `train vae`"):
        opened(tmp_path / "run", kind="vae").__enter__()
    (tmp_path / "old/checkpoint").mkdir(parents=True)
    (tmp_path / "old/resume.pt").write_bytes(b"x")
    with pytest.raises(RunFolderError, match=r"earlier version of lightwam \(resume.pt\).*--init .*old/checkpoint"):
        check_run_folder(tmp_path / "old", "policy")
    (tmp_path / "run/run.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"run\.json is not of this version"):
        check_run_folder(tmp_path / "run", "policy")


def _hold(out: Path, ready: Any, leave: Any) -> None:
    with opened(out):
        ready.set()
        leave.wait(60)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready, leave))
    other.start()
    assert ready.wait(60)
    try:
        with pytest.raises(RunFolderError, match=rf"run is in use by process {other.pid} on .+: wait for its end"):
            opened(tmp_path / "run").__enter__()
    finally:
        leave.set()
        other.join()
    filled(tmp_path / "run", 1)


def test_a_second_training_is_refused_before_it_reads_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    lock = FolderLock(tmp_path / "run" / ".lock", "run", RunFolderError)
    try:
        for inputs in (["policy"], ["vae", "--cache", str(tmp_path / "cache")]):
            words = ["train", *inputs, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
            assert main(words) == 2
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightwam train")]
            assert f"run is in use by process {os.getpid()} on" in line and "give another --out" in line
    finally:
        lock.release()
    assert os.listdir(tmp_path) == ["run"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A loader's worker that outlives a killed run would."""
    folder = opened(tmp_path).__enter__()
    assert folder._lock is not None
    (ready, says_ready), (leave, says_leave) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(says_ready, b"x")
        os.read(leave, 1)
        os._exit(0)
    os.read(ready, 1)
    os.close(folder._lock._file)  # as the end of the process would
    filled(tmp_path, 1)
    os.write(says_leave, b"x")
    os.waitpid(child, 0)
    for end in (ready, says_ready, leave, says_leave):
        os.close(end)


def test_what_killed_saves_left_is_removed(tmp_path: Path) -> None:
    """By the names that this package gives, of other machines too: the lock keeps their processes out."""
    filled(tmp_path, 1)
    half = tmp_path / "saves/.step_00000002.0123abcd.12345.89abcdef.part"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    (tmp_path / ".checkpoint.0123abcd.12345.89abcdef.part").symlink_to("saves/step_00000002/checkpoint")
    mine = tmp_path / "saves/.step_00000002.mine"
    mine.mkdir()
    (tmp_path / "notes.txt").write_text("precious")
    filled(tmp_path)
    assert not half.exists() and mine.is_dir() and (tmp_path / "notes.txt").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoint", "notes.txt", "run.json", "saves"}


def test_the_link_is_mended_where_a_run_was_killed_before_it(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    replace_link(tmp_path / "checkpoint", "saves/step_00000001/checkpoint")
    filled(tmp_path)
    assert (tmp_path / "checkpoint/model.txt").read_text() == "of step 2"


def test_a_save_that_was_copied_in_part_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, 1, 2)
    (tmp_path / "saves/step_00000002/state.pt").write_bytes(b"half")
    with opened(tmp_path) as folder:
        found = folder.resume()
    assert found is not None and found.step == 1 and "is not whole" in caplog.text
    assert (tmp_path / "saves/step_00000002/state.pt").read_bytes() == b"half"
    (tmp_path / "state.pt").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="is damaged"):
        TrainingState.read(tmp_path / "state.pt")


def full_disk(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: TrainingState, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(TrainingState, "write", fail)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("PytorchStreamWriter failed writing")]
)
def test_a_disk_that_fills_up_costs_no_earlier_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    filled(tmp_path, 1)
    with monkeypatch.context() as patch, opened(tmp_path) as folder:
        full_disk(patch, error)
        with pytest.raises(RunFolderError, match=r"step 2 could not be saved .*the save of step 1 stays"):
            folder.save(state(2), checkpoint())
    assert [path.name for path in (tmp_path / "saves").iterdir()] == ["step_00000001"]
    assert (tmp_path / "checkpoint/model.txt").read_text() == "of step 1"
    filled(tmp_path, 2)
    assert (tmp_path / "checkpoint/model.txt").read_text() == "of step 2"


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
    with opened(tmp_path) as folder, pytest.raises(RunFolderError, match=r"takes 1 MB and .* has 0 MB free"):
        folder.save(state(2), lambda path: pytest.fail("something was written"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with (
        opened(tmp_path) as folder,
        pytest.raises(TrainingError, match=r"step 2: 1 not finite: w .*saves stay"),
    ):
        folder.save(state(2, math.nan), checkpoint())
    assert [save.step for save in saves_of(tmp_path)] == [1]


def test_a_bad_batch_is_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 1)
    batch = {"action": torch.tensor([math.nan]), "future": {"x": torch.ones(2)}, "instruction": ["pick"]}
    with opened(tmp_path) as folder:
        error = folder.bad_batch(TrainingError("step 7: loss is nan"), 7, [batch], {"rows": [3, 4]})
    name = "bad_batch_00000007.pt"
    assert isinstance(error, TrainingError)
    assert str(error) == f"step 7: loss is nan; the batch is {tmp_path / name}; the save of step 1 stays"
    kept = torch.load(tmp_path / name, weights_only=True)
    assert kept["step"] == 7 and kept["about"] == {"rows": [3, 4]} and kept["batches"][0]["instruction"] == ["pick"]
    filled(tmp_path)
    assert "an earlier attempt met a loss that was not finite" in caplog.text and name in caplog.text

    def fail(*_: Any, **__: Any) -> BinaryIO:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(torch, "save", fail)
    with opened(tmp_path) as folder:
        assert "could not be written" in str(folder.bad_batch(TrainingError("x"), 8, [batch]))


def test_a_run_that_was_made_otherwise_is_refused_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, 1)
    other = {**FINGERPRINT, "data.0": "xyz", "seed": 2}
    with pytest.raises(
        RunFolderError,
        match=r"\(step 1\) was made otherwise: seed is 2 instead of 1; data\.0 is 'xyz' instead of 'abc': .*"
        r"--allow-changed seed data\.0",
    ):
        opened(tmp_path, fingerprint=other).__enter__()
    filled(tmp_path, 2, fingerprint=other, allow_changed=("seed", "data"))
    assert "seed was 1, is now 2" in caplog.text
    assert fingerprint_of(tmp_path / "checkpoint") == other
    filled(tmp_path, 3, fingerprint=other)  # it is the run's own now
    assert fingerprint_of(tmp_path) is None


def test_fingerprints_are_flat_and_compared_by_group() -> None:
    recipe = {"schedule": {"batch": 4, "seed": 1}, "loading": {"workers": 2}, "betas": (0.9, 0.95)}
    one = make_fingerprint(seed=1, recipe=recipe, data=("d",), vae="v", leave_out=("loading.workers",))
    assert {"recipe.schedule.batch", "recipe.betas.1", "data.0", "code"} <= set(one)
    assert "recipe.loading.workers" not in one and json.loads(json.dumps(one)) == one
    other = {**one, "recipe.schedule.batch": 8, "data.1": "e"}
    assert differences(one, other) == {"recipe.schedule.batch": (4, 8), "data.1": (None, "e")}
    assert set(compare(one, other, "it", allowed=("recipe", "data"))) == {"recipe.schedule.batch", "data.1"}
    assert compare(one, other, "it", only=("vae", "seed")) == {}
    many = {**one, **{f"config.x{number}": number for number in range(9)}}
    with pytest.raises(RunFolderError, match=r"and 5 more: .*--allow-changed config$"):
        compare(one, many, "it")
    with pytest.raises(RunFolderError):
        compare({"seed": 1}, {"seedling": 1}, "it", allowed=("se",))


def test_tensors_are_told_apart() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)}, {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3).bfloat16(), "b": torch.ones(1)}, {"a": torch.zeros(2, 3), "b": torch.ones(1) * 2},
    ]  # fmt: skip
    assert len({tensors_identity(tensors) for tensors in (base, *others)}) == 5
    assert tensors_identity(dict(reversed(base.items()))) == tensors_identity(base)


def test_random_states_come_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.randn(()))  # noqa: NPY002

    seed_rank(5, 1)
    draw()
    TrainingState(step=0, weights={}, optimizer={}, rng=[random_state()]).write(tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    seed_rank(6, 0)
    restore_random_state(TrainingState.read(tmp_path / "state.pt").rng[0])
    assert [draw() for _ in range(3)] == expected
