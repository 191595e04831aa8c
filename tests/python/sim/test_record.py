# SPDX-License-Identifier: Apache-2.0
"""The recording plan, retries and resuming, on the toy simulator; LIBERO's labels and noise."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from helpers.toy_sim import NAME, Toy, ToyEnv
from lightwam import cli
from lightwam.data.episode_files import Episode, read_episode_meta, read_episode_rows
from lightwam.errors import ConfigError, SimulatorError
from lightwam.lock import FolderLock
from lightwam.sim.env import Decision, Recording, Task
from lightwam.sim.libero.env import ROBOT
from lightwam.sim.libero.scenarios import ActionNoise, NoiseConfig
from lightwam.sim.libero.simulator import Libero
from lightwam.sim.record import (
    MAX_ATTEMPTS,
    Job,
    Staging,
    in_runs,
    make_recorder,
    plan_episodes,
    record_one,
    recording_of,
)


class FailingEnv(ToyEnv):
    """Fails `failures` times, then records a clip."""

    def __init__(self, failures: int) -> None:
        super().__init__(Toy().task("reach", 0))
        self.failures = failures

    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        self.failures -= 1
        return super().record("near", rng) if self.failures < 0 else None


def toy_tasks(*numbers: int) -> list[Task]:
    return [Toy().task("reach", number) for number in numbers]


def test_any_prefix_of_the_plan_is_a_fair_mix() -> None:
    def plan(episodes: int, clips: int, seed: int = 0, recording: Recording = Libero.recording) -> list[Job]:
        return plan_episodes(recording, toy_tasks(0), episodes, clips, seed)

    jobs = plan(40, 60)
    assert [job.number for job in jobs] == list(range(100))
    kinds = Counter(job.kind for job in jobs)
    assert kinds == {"full": 40, "pick": 30, "empty": 15, "dropped": 6, "carry": 9}
    assert 10 <= Counter(job.kind for job in jobs[:50])["full"] <= 30
    assert jobs == plan(40, 60) != plan(40, 60, seed=1)
    whole = plan(2, 60, recording=replace(Libero.recording, clip_kinds={}))
    assert [job.kind for job in whole] == ["full", "full"]
    corrections = plan_episodes(Libero.recording, toy_tasks(0), 2, 60, seed=0, corrections=True)
    assert [job[:2] for job in corrections] == [(0, "correction"), (1, "correction")]


def test_tasks_share_every_prefix_and_change_no_kind() -> None:
    tasks = [Task("s", number, f"t{number}", "") for number in range(10)]
    jobs = plan_episodes(Libero.recording, tasks, 100, 100, seed=3)
    alone = plan_episodes(Libero.recording, tasks[:1], 100, 100, seed=3)
    assert [job[:2] for job in jobs] == [job[:2] for job in alone]
    for length in (50, 100, 200):
        for kind in (None, "full", "pick"):
            chosen = [job.task.index for job in jobs[:length] if kind in (None, job.kind)]
            counts = [chosen.count(number) for number in range(10)]
            assert max(counts) - min(counts) <= (len(Libero.recording.clip_kinds) + 1 if kind is None else 1)
    ordered = in_runs(jobs)
    assert sorted(ordered) == jobs
    assert sum(first.task != second.task for first, second in pairwise(ordered)) < 20
    assert {job.task for job in ordered[-60:]} < set(tasks) == {job.task for job in ordered}
    assert in_runs(alone) == alone
    assert len({tuple(job.task.index for job in jobs[start : start + 10]) for start in (0, 10, 20)}) == 3


def test_a_failed_attempt_is_tried_again_from_another_start(tmp_path: Path) -> None:
    staging = Staging(tmp_path, seed=3, row_hz=10)
    assert record_one(FailingEnv(failures=2), staging, 7, "full") == 3
    meta = read_episode_meta(staging.episode(7))
    assert (meta["kind"], meta["attempt"], meta["seed"]) == ("near", 2, 3)
    with pytest.raises(SimulatorError, match="episode 8"):
        record_one(FailingEnv(failures=MAX_ATTEMPTS), staging, 8, "full")


def test_a_stopped_recording_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes record; an episode that is removed comes again, equal; what is staged is not recorded again."""
    out = tmp_path / "set"
    words = f"record --sim {NAME} --out {out} --episodes 3 --clips 2 --processes 2 --seed 5".split()
    assert cli.main(words) == 0
    staging = Staging(out.with_name("set.staging"), 5, 10)
    jobs = plan_episodes(Toy.recording, toy_tasks(1), 3, 2, seed=5)
    assert staging.missing(jobs) == []
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["total_episodes"], info["robot_type"], info["fps"]) == (5, "point", 10)
    rows = read_episode_rows(staging.episode(4))
    assert rows["action"].shape[1:] == (1, 3) and rows["observation.state"].shape[1:] == (2,)

    shutil.rmtree(staging.episode(4))
    assert staging.missing(jobs) == [jobs[4]]
    record_one(make_recorder(NAME, "usual", jobs[4].task), staging, *jobs[4][:2])
    for name, values in read_episode_rows(staging.episode(4)).items():
        np.testing.assert_array_equal(values, rows[name])

    monkeypatch.setattr("lightwam.cli.record.make_recorder", lambda *_, **__: pytest.fail("nothing was left"))
    shutil.rmtree(out)
    assert cli.main(words) == 0
    assert (out / "meta/info.json").is_file()


def test_a_failing_process_ends_the_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "damaged.npz"
    policy.write_bytes(b"noise")
    assert cli.main(f"record --sim {NAME} --out {tmp_path}/set --episodes 1 --policy {policy}".split()) == 2
    assert "ConfigError" in capsys.readouterr().err


def test_what_makes_no_recording(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="choose one of usual"):
        recording_of(Toy(), "wide")
    toy = Toy()
    toy.recording = None
    with pytest.raises(SimulatorError, match="sets no `recording`"):
        recording_of(toy, None)
    assert cli.main(["record", "--out", "nowhere", "--processes", "0"]) == 2
    assert "processes 0" in capsys.readouterr().err


def recorded(out: Path, **changes: object) -> int:
    options = {"episodes": 2, "clips": 1, "seed": 5, **changes}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return cli.main(["record", "--sim", NAME, "--out", str(out), *words])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """set/ and set.staging/ of three toy episodes."""
    folder = tmp_path_factory.mktemp("recording")
    assert recorded(folder / "set") == 0
    return folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 6}, "seed is 6 instead of 5"),
        ({"image_size": 64}, "image_size is 64 instead of 256"),
        ({"task": 0}, "task is 0 instead of 1; instruction is 'reach target 0' instead of 'reach target 1'"),
        ({"episodes": 3}, "episodes is 3 instead of 2"),
    ],
)
def test_another_recording_is_refused_by_name(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], told: str
) -> None:
    before = (recording / "set/meta/info.json").read_bytes()
    assert recorded(recording / "set", **changes) == 2
    assert f"set is of another recording: {told}; nothing is replaced" in capsys.readouterr().err
    assert recorded(tmp_path / "other", staging=recording / "set.staging", **changes) == 2
    assert f"set.staging is of another recording: {told}; give another --out" in capsys.readouterr().err
    assert (recording / "set/meta/info.json").read_bytes() == before and not (tmp_path / "other").exists()


def test_folders_of_other_things_stay(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home/photos").mkdir(parents=True)
    (tmp_path / "home/photos/a.jpg").write_text("x")
    words = ["record", "--sim", NAME, "--finalise-only", "--staging", str(recording / "set.staging")]
    assert cli.main([*words, "--out", str(tmp_path / "home")]) == 2
    assert "home holds other things than a data set (photos): nothing is replaced" in capsys.readouterr().err
    assert recorded(tmp_path / "new", staging=tmp_path / "home") == 2
    assert "home holds 'photos', which is no episode: give another --staging" in capsys.readouterr().err
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["home", "home/photos",
                                                                                 "home/photos/a.jpg"]  # fmt: skip
    (tmp_path / "set/meta").mkdir(parents=True)
    (tmp_path / "set/meta/info.json").write_text('{"codebase_version": "v3.0"}')  # of somebody else
    assert cli.main([*words, "--out", str(tmp_path / "set")]) == 2
    assert "set holds other things than a data set" in capsys.readouterr().err


def test_a_recording_goes_on_beside_what_it_made(recording: Path, tmp_path: Path) -> None:
    shutil.copytree(recording, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/set.staging/episode_000001")
    assert recorded(tmp_path / "copy/set") == 0
    words = ["record", "--sim", NAME, "--finalise-only", "--out", str(tmp_path / "copy/set")]
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "copy/set/meta/info.json").read_text())["lightwam.recording"]["seed"] == 5


def test_episodes_of_before_there_were_identities(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They say seed, task, kind and size themselves; a data set that does not say what it is, is not replaced."""
    shutil.copytree(recording, tmp_path / "copy")
    staging = tmp_path / "copy/set.staging"
    (staging / "recording.json").unlink()
    assert recorded(tmp_path / "new", staging=staging, seed=6, image_size=32) == 2
    assert "another recording: seed is 6 instead of 5; give another" in capsys.readouterr().err
    assert recorded(tmp_path / "new", staging=staging, image_size=32) == 0
    info = json.loads((tmp_path / "copy/set/meta/info.json").read_text())
    del info["lightwam.recording"]
    (tmp_path / "copy/set/meta/info.json").write_text(json.dumps(info))
    capsys.readouterr()
    assert recorded(tmp_path / "copy/set") == 2
    assert "was recorded by an earlier version, which did not say how: give another --out" in capsys.readouterr().err


def test_two_recordings_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.staging").mkdir()
    lock = FolderLock(tmp_path / "set.staging/.lock", "it", ConfigError)
    try:
        assert recorded(tmp_path / "set") == 2
    finally:
        lock.release()
    assert f"set.staging is in use by process {os.getpid()} on" in capsys.readouterr().err


def test_labels_use_the_data_sets_gripper() -> None:
    actions = np.zeros((2, 7), np.float32)
    actions[:, 6] = [-1.0, 1.0]
    converted = ROBOT.to_data(actions)
    assert converted.dtype == np.float32 and converted[:, 6].tolist() == [1.0, 0.0]
    assert actions[0, 6] == -1.0


def test_noise_is_small_near_the_grasp_and_leaves_the_gripper_alone() -> None:
    rng, config = np.random.default_rng(0), NoiseConfig(kick_probability=0.0)
    deviations = {}
    for phase in ("approach", "close"):
        sizes = []
        for _ in range(30):
            noise = ActionNoise(rng, config)
            decision = Decision(np.array([0, 0, 0, 0, 0, 0, 1.0]), phase)
            applied = np.array([noise.apply(decision) for _ in range(40)])
            assert (applied[:, 6] == 1.0).all() and (np.abs(applied) <= 1.0).all()
            sizes.append(applied[:, :3].std())
        deviations[phase] = np.mean(sizes)
    assert deviations["close"] < 0.2 * deviations["approach"]
    assert 0.1 < deviations["approach"] < 0.4
