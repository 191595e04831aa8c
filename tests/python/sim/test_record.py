# SPDX-License-Identifier: Apache-2.0
"""The recording plan, retries and resuming, without a simulator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lightwam.data.episode_files import Episode, read_episode_meta
from lightwam.errors import ConfigError, SimulatorError
from lightwam.sim import record
from lightwam.sim.libero.expert import Decision
from lightwam.sim.libero.scenarios import ActionNoise, NoiseConfig, to_dataset_gripper
from lightwam.sim.record import MAX_ATTEMPTS, RecordArgs, episode_folder, main, plan, record_one


class StandInRunner:
    """Fails `failures` times, then delivers an episode of two rows."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        if self.failures > 0:
            self.failures -= 1
            return None
        episode = Episode("task", kind)
        for _ in range(2):
            columns = {"observation.state": np.zeros(8, np.float32), "action": np.zeros((4, 7), np.float32)}
            episode.add_row(columns, {"agentview": np.zeros((16, 16, 3), np.uint8)})
        return episode


def test_any_prefix_of_the_plan_is_a_fair_mix(tmp_path: Path) -> None:
    args = RecordArgs(out=tmp_path, episodes=40, clips=60)
    jobs = plan(args)
    assert [number for number, _ in jobs] == list(range(100))
    kinds = Counter(kind for _, kind in jobs)
    assert kinds == {"full": 40, "pick": 30, "empty": 15, "dropped": 6, "carry": 9}
    assert 10 <= Counter(kind for _, kind in jobs[:50])["full"] <= 30
    assert jobs == plan(args) != plan(RecordArgs(out=tmp_path, episodes=40, clips=60, seed=1))
    assert plan(RecordArgs(out=tmp_path, episodes=2, policy=Path("x.lwam"))) == [(0, "correction"), (1, "correction")]


def test_a_failed_attempt_is_tried_again_from_another_start(tmp_path: Path) -> None:
    assert record_one(StandInRunner(failures=2), tmp_path, 7, "full", seed=3) == 2
    meta = read_episode_meta(episode_folder(tmp_path, 7))
    assert (meta["kind"], meta["attempt"], meta["seed"]) == ("full", 2, 3)
    with pytest.raises(SimulatorError, match="episode 8"):
        record_one(StandInRunner(failures=MAX_ATTEMPTS), tmp_path, 8, "full", seed=3)


def test_what_is_staged_is_not_recorded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = RecordArgs(out=tmp_path / "set", episodes=3, clips=0)
    for number, kind in plan(args):
        record_one(StandInRunner(), args.staging_folder(), number, kind, args.seed)

    def no_simulator(_: RecordArgs) -> None:
        raise AssertionError("nothing was left to record")

    monkeypatch.setattr(record, "make_runner", no_simulator)
    assert main(args) == 0
    assert (args.out / "meta/info.json").is_file()


def test_numbers_that_make_no_recording(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="processes 0"):
        main(RecordArgs(out=tmp_path, processes=0))


def test_labels_use_the_data_sets_gripper() -> None:
    actions = np.zeros((2, 7))
    actions[:, 6] = [-1.0, 1.0]
    converted = to_dataset_gripper(actions)
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
