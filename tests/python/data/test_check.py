# SPDX-License-Identifier: Apache-2.0
"""`lightwam data check` finds each planted fault, and nothing on good data sets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import arm_set
from helpers.arm_set import arm_config, edit_all, edit_info, edit_table, table_path, video_path
from helpers.golden_data import HDF5, LEROBOT, libero, robotwin
from lightwam import cli
from lightwam.config.selection import Selection
from lightwam.data.check import check_datasets, check_folders, refuse
from lightwam.data.check_frames import Reference
from lightwam.data.resample import resampled
from lightwam.data.sources import open_dataset, open_datasets, select
from lightwam.data.windows import measure_statistics
from lightwam.errors import DataError

Columns = dict[str, np.ndarray]
STATE, ACTION = "observation.state", "action"


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arm's data set: leave it as it is."""
    return arm_set.write_arm_set(tmp_path_factory.mktemp("arm") / "good")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(good, tmp_path / "set"))


@dataclass(frozen=True)
class Planted:
    """A fault: how it is planted, and the finding that names it."""

    name: str
    plant: Callable[[Path], Any]
    severity: str
    kind: str
    says: str
    robot: dict[str, Any] | None = None
    """Changes of the robot's file."""
    frames: bool = False


def _set(column: str, rows: Any, value: Any, place: Any = slice(None)) -> Callable[[Columns], None]:
    def edit(columns: Columns) -> None:
        columns[column] = columns[column].astype(float)
        columns[column][rows, place] = value

    return edit


def _times(column: str, factor: float, place: Any = slice(None)) -> Callable[[Columns], None]:
    def edit(columns: Columns) -> None:
        columns[column] = columns[column].astype(float)
        columns[column][:, place] *= factor

    return edit


def _one_row_more(root: Path) -> None:
    def edit(columns: Columns) -> None:
        for name in columns:
            columns[name] = np.concatenate([columns[name], columns[name][-1:]])

    edit_table(root, 0, edit)


def _late(columns: Columns) -> None:
    """Actions are those of three rows before their place: the state that was there already."""
    columns[ACTION] = np.concatenate([columns[STATE][:1].repeat(3, 0), columns[STATE][:-3]])


def _copies(columns: Columns) -> None:
    columns[ACTION] = columns[STATE]


def _frame_index(columns: Columns) -> None:
    columns["frame_index"][5:] += 1


def _dropped_rows(columns: Columns) -> None:
    columns["timestamp"][10:] += 5 / arm_set.HZ


def _other_task(columns: Columns) -> None:
    columns["task_index"][12:] = 1


def _same_as(root: Path, episode: int, other: int) -> None:
    """The numbers of another episode, cut or repeated to the length."""
    source: Columns = {}
    edit_table(root, other, source.update)

    def edit(columns: Columns) -> None:
        rows = np.minimum(np.arange(len(columns[STATE])), len(source[STATE]) - 1)
        for name in (STATE, ACTION):
            columns[name] = source[name][rows]

    edit_table(root, episode, edit)


def _duplicate(root: Path) -> None:
    shutil.copy(table_path(root, 1), root / "x")
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text(
        "\n".join([*lines, json.dumps({"episode_index": 4, "tasks": [], "length": arm_set.LENGTHS[1]})])
    )
    shutil.move(root / "x", table_path(root, 4))

    def edit(columns: Columns) -> None:
        columns["episode_index"][:] = 4

    edit_table(root, 4, edit)
    for camera in arm_set.CAMERAS:
        shutil.copy(video_path(root, 1, camera), video_path(root, 4, camera))
    edit_info(root, total_episodes=5, total_frames=sum(arm_set.LENGTHS) + arm_set.LENGTHS[1])


def _drop_episode(root: Path) -> None:
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([lines[0], *lines[2:]]))


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def _video(root: Path, images: list[np.ndarray], numbers: list[int] | None = None) -> None:
    video_path(root, 0).unlink()
    arm_set.write_video(video_path(root, 0), images, numbers)


def _pictures(rows: int = arm_set.LENGTHS[0]) -> list[np.ndarray]:
    return [arm_set.picture(0, i, 0) for i in range(rows)]


def _repeat_rows(columns: Columns) -> None:
    rows = np.arange(len(columns[STATE])) // 3 * 3
    columns[STATE], columns[ACTION] = columns[STATE][rows], columns[ACTION][rows]


def _still(columns: Columns) -> None:
    columns[STATE] = columns[STATE][:1].repeat(len(columns[STATE]), 0)


def _against(columns: Columns) -> None:
    columns[ACTION][:, 0] *= -1


def _closed_at_first(columns: Columns) -> None:
    columns[ACTION][:, 5] = 100 - columns[ACTION][:, 5]
    columns[STATE][:, 5] = 50 + 0.1 * columns[STATE][:, 0]


FINGERS = [{"name": f"s{i}", "unit": "deg"} for i in range(5)] + [{"name": "finger", "unit": "m"}]


def _fingers(columns: Columns) -> None:
    """Fingers that open, in four rows, when the command of the robot's file closes."""
    closed = 1 - columns[ACTION][:, 5] / 100
    columns[STATE][:, 5] = 0.01 * np.convolve(np.concatenate([closed[:1].repeat(3), closed]), np.ones(4), "valid")


LONG = " ".join(["pick"] * 40)
WRITE = arm_set.write_tasks
E, W = "error", "warning"
PLANTED = [
    Planted("one row more than listed", _one_row_more, E, "reading", "episode 0 has 25 rows"),
    Planted("frame_index", lambda d: edit_table(d, 1, _frame_index), E, "reading", "row 5 of episode 1 has frame"),
    Planted("episode_index", lambda d: edit_table(d, 1, lambda c: c.update(episode_index=c["episode_index"] + 1)),
            E, "reading", "has episode_index 2 instead of 1"),
    Planted("dropped rows", lambda d: edit_table(d, 2, _dropped_rows), E, "reading", "rows were dropped"),
    Planted("task change", lambda d: edit_table(d, 0, _other_task), E, "reading", "changes from task 0 to 1"),
    Planted("NaN", lambda d: edit_table(d, 1, _set(STATE, 3, np.nan, 2)), E, "reading", "NaN or infinity"),
    Planted("infinity", lambda d: edit_table(d, 3, _set(ACTION, 0, np.inf, 0)), E, "reading", "NaN or infinity"),
    Planted("ragged rows", lambda d: edit_table(d, 1, lambda c: c.update({ACTION: c[ACTION][:, :5]})),
            E, "reading", "unequal width"),
    Planted("no table", lambda d: table_path(d, 2).unlink(), E, "reading", "episode_000002.parquet is"),
    Planted("episode not listed", _drop_episode, E, "missing", "total_episodes 4, there are 3"),
    Planted("no video", lambda d: video_path(d, 1, "wrist").unlink(), E, "video", "is missing"),
    Planted("empty video", lambda d: video_path(d, 1).write_bytes(b""), E, "video", "is empty"),
    Planted("cut video", lambda d: _cut(video_path(d, 2)), E, "video", "damaged|ends before", frames=True),
    Planted("camera dropped frames", lambda d: _video(d, _pictures(), [*range(6), *range(9, 27)]), E, "video",
            "frames were dropped", frames=True),
    Planted("short video", lambda d: _video(d, _pictures(20)), E, "video", "ends before frame 20", frames=True),
    Planted("black camera", lambda d: _video(d, [0 * p for p in _pictures()]), W, "video", "black", frames=True),
    Planted("frozen camera", lambda d: _video(d, _pictures()[:1] * 24), W, "video", "never changes", frames=True),
    Planted("other frame size", lambda d: _video(d, [np.repeat(p, 2, 0) for p in _pictures()]), W, "video",
            "several sizes", frames=True),
    Planted("no camera", lambda d: None, E, "reading", "without ..top", {"cameras": [
        {"name": "top", "top": 0, "left": 0, "height": 32, "width": 64}]}),
    Planted("state width", lambda d: None, E, "reading", "state width 6", {
        "state": [{"name": f"s{i}", "unit": "deg"} for i in range(7)]}),
    Planted("control rate", lambda d: None, E, "reading", "robot takes them at 20 Hz", {"control_hz": 20.0}),
    Planted("gripper range", lambda d: edit_all(d, lambda c: c.update({ACTION: np.where(
        np.arange(6) == 5, c[ACTION] / 50 - 1, c[ACTION])})), E, "units|reading", "gripper|spreads",
        {"gripper": {"dimension": "gripper", "data_open": 1, "data_closed": 0, "robot_open": 1, "robot_closed": 0}}),
    Planted("gripper sense, by how episodes begin", lambda d: edit_all(d, _closed_at_first), W, "gripper",
            "4 of 4 episodes begin closed"),
    Planted("gripper sense, by the fingers", lambda d: edit_all(d, _fingers), E, "gripper", "fingers close",
            {"state": FINGERS}),
    Planted("gripper never moves", lambda d: edit_all(d, _set(ACTION, slice(None), 0.0, 5)), W, "gripper",
            "is always 0"),
    Planted("gripper hardly moves", lambda d: edit_all(d, _times(ACTION, 0.01, 5)), W, "gripper", "0 to 1 only"),
    Planted("constant, z-score", lambda d: edit_all(d, _set(STATE, slice(None), 3.0, 1)), W, "constant",
            "always 3: z-score", {"normalization": {"state": "z-score", "action": "min/max"}}),
    Planted("constant", lambda d: edit_all(d, _set(STATE, slice(None), 3.0, 1)), "note", "constant", "always 3"),
    Planted("no action moves", lambda d: edit_all(d, _set(ACTION, slice(None), 3.0)), E, "constant", "no action"),
    Planted("a jump", lambda d: edit_table(d, 1, _set(ACTION, 7, 5e4, 2)), W, "jump", "50000, all others"),
    Planted("late actions", lambda d: edit_all(d, _late), E, "lag", "come 3 rows late"),
    Planted("actions copy states", lambda d: edit_all(d, _copies), W, "lag", "equal the states"),
    Planted("degrees and radians", lambda d: edit_all(d, _times(STATE, np.pi / 180)), E, "units", "degrees and rad"),
    Planted("unit of the robot's file", lambda d: None, W, "units", "reaches .* rad", {
        "state": [{"name": n, "unit": "rad"} for n in arm_set.JOINTS]}),
    Planted("radians under deg", lambda d: edit_all(d, lambda c: (_times(STATE, 0.02)(c), _times(ACTION, 0.02)(c))),
            W, "units", "look like radians"),
    Planted("sign", lambda d: edit_all(d, _against), E, "sense", "moves against"),
    Planted("robot stands still", lambda d: edit_table(d, 2, _still), E, "still", r"episodes 2 while"),
    Planted("repeated rows", lambda d: edit_table(d, 2, _repeat_rows), W, "repeats", "in the episodes 2"),
    Planted("an episode twice", _duplicate, W, "duplicate", "4 = 1"),
    Planted("empty instruction", lambda d: WRITE(d, ["", "b"]), E, "reading", "no task's text"),
    Planted("no words", lambda d: WRITE(d, ["...", "b"]), E, "text", "no words"),
    Planted("long instruction", lambda d: WRITE(d, [LONG, "b"]), E, "text", "40 words, the text encoder takes 24"),
    Planted("two spellings", lambda d: WRITE(d, ["Open  it", "open it"]), W, "text", "spelling alone"),
    Planted("odd spaces", lambda d: WRITE(d, ["open\u00a0it ", "b"]), W, "text", "odd white space"),
    Planted("images upside down, says the set", lambda d: edit_info(d, **{
        "lightwam.images": "raw camera images, as the simulator delivers them (turned by 180 degrees)"}),
        E, "orientation", "rotated_180, the robot's file says in_data upright"),
    Planted("gripper, says the set", lambda d: edit_info(d, **{"lightwam.gripper": "1 close, -1 open"}), E,
            "gripper", "is 1 closed and -1 open"),
]  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_each_planted_fault_is_found(planted: Planted, copy: Path, tmp_path: Path) -> None:
    planted.plant(copy)
    findings = check_folders([copy], arm_config(tmp_path, **(planted.robot or {})), frames=planted.frames)
    hits = [f for f in findings if f.severity == planted.severity and re.fullmatch(planted.kind, f.kind)]
    assert any(re.search(planted.says, str(f)) for f in hits), [str(f) for f in findings]
    assert all(f.remedy for f in findings), [str(f) for f in findings]


def test_the_table_is_long_enough() -> None:
    assert len({planted.name for planted in PLANTED}) == len(PLANTED) >= 40


def test_good_sets(good: Path, tmp_path: Path) -> None:
    config = arm_config(tmp_path)
    assert check_folders([good], config) == [] == check_folders([good])
    statistics = measure_statistics(open_datasets([good], config), config)
    assert check_folders([good], config, {**statistics, "instructions": list(arm_set.TASKS)}, frames=False) == []
    assert {f.kind for f in check_folders([LEROBOT / "libero_tiny"], libero())} == {"constant"}
    for folder, of in (
        (LEROBOT / "robotwin_tiny", robotwin()),
        (HDF5 / "real_tiny", None),
        (HDF5 / "real_tiny", robotwin()),
    ):
        assert not [f for f in check_folders([folder], of, frames=False) if f.severity == "error"]
    known = check_folders([LEROBOT / "robotwin_tiny"], robotwin(), frames=False)
    assert [f.where.split(", ")[1] for f in known] == ["state 'right_joint_4'", "action 'left_joint_4'"]


def test_statistics_of_other_data(good: Path, tmp_path: Path) -> None:
    config = arm_config(tmp_path)
    statistics = measure_statistics(open_datasets([good], config), config)

    def found(document: dict[str, Any], mode: str = "min/max") -> list[str]:
        normalization = replace(config.robot.normalization, state=mode, action=mode)
        other = config.with_robot(replace(config.robot, normalization=normalization))
        findings = check_folders([good], other, document, frames=False)
        return [str(f) for f in findings if f.kind in ("statistics", "text")]

    other = json.loads(json.dumps(statistics))
    other["state"]["default"]["global_max"][0] /= 3
    other["action"]["default"]["global_mean"][1] += 200
    assert len(told := found(other)) == 1 and "state 'shoulder_pan': " in told[0] and "of other data" in told[0]
    assert len(told := found(other, "z-score")) == 1 and "action 'shoulder_lift': mean" in told[0]
    del other["state"]["default"]["global_max"]
    assert "lack min or max" in found(other)[0]
    other["state"] = {"default": {"global_min": [0.0], "global_max": [1.0]}}
    assert "of width 1, the data of 6" in found(other)[0]
    assert "this one" in found({**statistics, "instructions": [arm_set.TASKS[0], "sing"]})[0]


def test_a_reference_frame_tells_orientation_colours_and_cameras(good: Path, tmp_path: Path) -> None:
    config = arm_config(tmp_path)
    pictures = {name: arm_set.picture(1, 0, k) for k, name in enumerate(arm_set.CAMERAS)}

    def found(frames: dict[str, np.ndarray], **changes: Any) -> list[str]:
        robot = replace(config.robot, cameras=tuple(replace(c, **changes) for c in config.robot.cameras))
        findings = check_folders([good], config.with_robot(robot), reference=Reference(frames))
        return [f"{f.kind}: {f.what}: {f.remedy}" for f in findings]

    assert found(pictures) == []
    turned = {name: image[::-1, ::-1] for name, image in pictures.items()}
    assert found(turned, on_robot="rotated_180") == []
    assert all("taken to be rotated_180" in line for line in found(turned)) and len(found(turned)) == 2
    assert "set in_data of the camera to upright" in found(pictures, in_data="flipped_vertical")[0]
    assert "red and blue" in found({"front": pictures["front"][..., ::-1]})[0]
    assert "looks like camera 'wrist'" in found({"front": pictures["wrist"]})[0]
    folder = tmp_path / "reference"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no CAMERA"):
        Reference.read(folder)
    Image.fromarray(pictures["front"]).save(folder / "front.png")
    assert np.array_equal(Reference.read(folder).frames["front"], pictures["front"])


def test_sets_that_do_not_go_together(good: Path, copy: Path, tmp_path: Path) -> None:
    edit_info(copy, fps=15)
    edit_all(copy, lambda c: c.update(timestamp=c["timestamp"] * 2, action=c["action"][:, :4]))
    findings = check_folders([good, copy, good], frames=False)
    told = {f.what for f in findings if f.kind == "mixture"}
    assert told == {"they have different widths of state and action, (6, 4) and (6, 6)", "they are one folder",
                    "they have different widths of state and action, (6, 6) and (6, 4)",
                    "they have different control steps a second, 15.0 and 30.0",
                    "they have different control steps a second, 30.0 and 15.0"}  # fmt: skip


def test_training_runs_the_cheap_part_and_refuses(copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = arm_config(tmp_path)
    edit_all(copy, _copies)
    refuse(check_datasets(open_datasets([copy], config), config))
    assert "equal the states" in caplog.text
    edit_all(copy, _late)
    video_path(copy, 0).unlink()
    with pytest.raises(DataError, match=r"front'.*is missing: copy the data set again \(1 more: `lightwam data check`"):
        refuse(check_datasets(open_datasets([copy], config), config))


def test_parts_of_a_set_miss_nothing(good: Path, tmp_path: Path) -> None:
    config = arm_config(tmp_path, control_hz=10.0)
    data = open_dataset(good, config.robot)
    (first,) = select([data], Selection(max_episodes=2))
    for part in (data.take([0, 3]), resampled(data, config.robot, "stride"), first):
        assert [f.kind for f in check_datasets([part])] == []


def test_a_missing_video_is_told_once(copy: Path, tmp_path: Path) -> None:
    video_path(copy, 1).unlink()
    assert len(check_folders([copy], arm_config(tmp_path))) == 1
    assert check_folders([copy], arm_config(tmp_path), selection=Selection(episodes=("0,2-3",))) == []


def test_the_verb(good: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = str(tmp_path / "robot.json")
    (tmp_path / "robot.json").write_text(json.dumps(arm_set.robot_document()))
    assert cli.main(["data", "check", str(good), "--config", robot]) == 0
    assert capsys.readouterr().out == "0 errors, 0 warnings, 0 notes\n"
    edit_all(copy, _late)
    assert cli.main(["data", "check", str(copy), "--config", robot, "--quick"]) == 1
    assert "error: " in (out := capsys.readouterr().out) and "shift the actions 3 rows ahead" in out
    assert cli.main(["data", "check", str(copy), "--config", robot, "--quick", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 1
    for words in (["--reference", str(tmp_path)], ["--statistics", robot]):
        assert cli.main(["data", "check", str(good), *words]) == 2
