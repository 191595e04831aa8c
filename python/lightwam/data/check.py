# SPDX-License-Identifier: Apache-2.0
"""What usually goes wrong in a data set, in plain words (`lightwam data check`).

`check_datasets` is the cheap part, which training runs itself: it decodes no frame. `check_folders` opens the data sets
so that every fault is told, not the first alone, and looks at the frames, too. docs/guides/your-own-data.md lists what
is found.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.config import FLIPS, LightWAMConfig, RobotConfig, TextConfig
from lightwam.config.selection import Selection
from lightwam.data.check_frames import Reference, check_frames, is_there
from lightwam.data.check_motion import check_gripper, check_motion
from lightwam.data.check_rows import check_columns, check_episodes, check_statistics
from lightwam.data.dataset import Dataset
from lightwam.data.findings import Finding as Finding
from lightwam.data.findings import from_error
from lightwam.data.findings import refuse as refuse
from lightwam.data.samples import english
from lightwam.data.sources import EVERYTHING, fitted, open_dataset, select
from lightwam.data.windows import WindowIndex
from lightwam.errors import DataError
from lightwam.words import clean_instruction, split_words

_ORIENTATIONS = {"turned by 180 degrees": "rotated_180"}
_TOKENS_A_WORD = 1.5  # umT5, roughly: its tokeniser is not at hand


@default_arithmetic
def check_datasets(
    datasets: Sequence[Dataset], config: LightWAMConfig | None = None, statistics: Mapping[str, Any] | None = None
) -> list[Finding]:
    """All that the tables, the metadata and the names of files tell.

    Args:
        datasets: opened data sets, their cameras under the robot's names.
        config: what they are to train; None: what needs no robot is checked.
        statistics: content of the statistics file that they will be normalised with; None: it will be measured.
    """
    findings: list[Finding] = []
    for dataset in datasets:
        findings += _check_one(dataset, config, statistics)
    return findings + list(_check_together(datasets))


@default_arithmetic
def check_folders(
    folders: Sequence[Path],
    config: LightWAMConfig | None = None,
    statistics: Mapping[str, Any] | None = None,
    selection: Selection = EVERYTHING,
    *,
    frames: bool = True,
    reference: Reference | None = None,
    show: bool = False,
) -> list[Finding]:
    """As `check_datasets`, of folders: faults that a reader refuses are findings, and with `frames` all are decoded.

    `selection`: which episodes, if all data sets can be read. `reference`: frames of the live robot. `show`: a
    progress bar.
    """
    findings: list[Finding] = []
    opened: list[Dataset] = []
    for folder in folders:
        errors: list[DataError] = []
        dataset = _opened(folder, config, errors, findings)
        findings += [from_error(error, str(folder)) for error in errors]
        opened += [] if dataset is None else [dataset]
    if len(opened) == len(folders):
        opened = select(opened, selection)
    for dataset in opened:
        errors = []
        if config is not None:
            fitted(dataset, config.robot, errors.append)
        findings += [from_error(error, str(dataset.root)) for error in errors]
    findings += check_datasets(opened, config, statistics)
    if frames:
        for dataset in opened:
            findings += check_frames(dataset, config, reference, show)
    return list(dict.fromkeys(findings))


def _opened(
    folder: Path, config: LightWAMConfig | None, errors: list[DataError], findings: list[Finding]
) -> Dataset | None:
    """The data set, or None; what its reader says goes to `errors` and `findings`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset: Dataset | None = None
        try:
            dataset = open_dataset(folder, None if config is None else config.robot, errors.append)
        except DataError as error:
            errors.append(error)
    for warning in caught:
        what, _, then = str(warning.message).partition("; ")
        findings.append(Finding("warning", "reading", str(folder), what, then or "look at these rows"))
    return dataset


def _check_one(
    dataset: Dataset, config: LightWAMConfig | None, statistics: Mapping[str, Any] | None
) -> Iterator[Finding]:
    robot = None if config is None else config.robot
    yield from _listing(dataset)
    yield from _files(dataset, robot)
    yield from check_columns(dataset, robot)
    yield from check_episodes(dataset)
    if config is None or robot is None:
        return
    yield from _declared(dataset, robot)
    yield from check_motion(dataset, robot)
    yield from check_gripper(dataset, robot)
    yield from _texts(dataset, config.text, statistics)
    yield from _windows(dataset, config)
    if statistics is not None:
        yield from check_statistics(dataset, robot, statistics)


def _listing(dataset: Dataset) -> Iterator[Finding]:
    """Numbers of episodes, and what info.json says of them."""
    root, numbers = str(dataset.root), [episode.index for episode in dataset.episodes]
    have = {"total_episodes": len(numbers), "total_frames": len(dataset.state)}
    whole = dataset.about.get("total_episodes")
    for name, count in have.items():
        told = dataset.about.get(name)
        if isinstance(told, int) and told != count and not (name == "total_frames" and whole != have["total_episodes"]):
            yield Finding("error", "missing", root, f"meta/info.json says {name} {told}, there are {count}",
                          "copy the data set again: files are missing")  # fmt: skip
    if len(set(numbers)) < len(numbers):
        doubled = sorted({number for number in numbers if numbers.count(number) > 1})
        yield Finding("error", "listing", root, f"episodes {doubled[:5]} are listed twice", "number them anew")
    missing = sorted(set(range(min(numbers), max(numbers))) - set(numbers)) if numbers else []
    if missing and whole is not None:
        what = f"episodes {missing[:5]} are missing between {min(numbers)} and {max(numbers)}"
        yield Finding("warning", "missing", root, what, "copy the data set again, if they were not left out on purpose")


def _files(dataset: Dataset, robot: RobotConfig | None) -> Iterator[Finding]:
    """Files of frames that are not there."""
    wanted = dataset.cameras if robot is None else [camera.name for camera in robot.cameras]
    lost: dict[Path, tuple[str, int]] = {}
    known: dict[Path, bool] = {}
    for episode in dataset.episodes:
        for camera in (name for name in wanted if name in episode.videos):
            path = episode.videos[camera].path
            if path not in known:
                known[path] = is_there(path)
            if not known[path]:
                lost.setdefault(path, (camera, episode.index))
    for path, (camera, index) in lost.items():
        where = f"{dataset.root}, episode {index}, camera {camera!r}"
        state = "empty" if path.exists() else "missing"
        yield Finding("error", "video", where, f"{path} is {state}", "copy the data set again")


def _declared(dataset: Dataset, robot: RobotConfig) -> Iterator[Finding]:
    """What a set of our recorder says of its images and its gripper, against the robot's file."""
    root = str(dataset.root)
    told = re.search(r"\(([^()]*)\)\s*$", str(dataset.about.get("lightwam.images", "")))
    if told:
        names = {_ORIENTATIONS.get(part.strip(), part.strip()) for part in told[1].split(",")}
        for camera in robot.cameras:
            if names <= set(FLIPS) and camera.in_data not in names:
                what = f"its images are {', '.join(sorted(names))}, the robot's file says in_data {camera.in_data}"
                yield Finding("error", "orientation", f"{root}, camera {camera.name!r}", what,
                              f"set in_data of the camera to {min(names)}")  # fmt: skip
    gripper = re.fullmatch(r"(\S+) close, (\S+) open", str(dataset.about.get("lightwam.gripper", "")))
    if gripper and robot.gripper is not None:
        ends, rule = (float(gripper[1]), float(gripper[2])), robot.gripper
        if ends != (rule.data_closed, rule.data_open):
            what = (
                f"its gripper is {ends[0]:g} closed and {ends[1]:g} open, the robot's file says "
                f"{rule.data_closed:g} and {rule.data_open:g}"
            )
            yield Finding("error", "gripper", root, what, "set data_closed and data_open of the robot's gripper")


def _texts(dataset: Dataset, text: TextConfig, statistics: Mapping[str, Any] | None) -> Iterator[Finding]:
    root, seen = str(dataset.root), (statistics or {}).get("instructions")
    tasks = list(dict.fromkeys(episode.task for episode in dataset.episodes))
    spelled: dict[str, str] = {}
    for task in tasks:
        where, used = f"{root}, task {task[:60]!r}", english(task)
        words = split_words(text.prompt_template.format(task=used))
        if not split_words(used):
            yield Finding("error", "text", where, "it has no words", "give the episodes an instruction")
            continue
        if text.kind == "hashed_words" and len(words) > text.length:
            what = f"it has {len(words)} words, the text encoder takes {text.length}"
            yield Finding("error", "text", where, what, "shorten it, or raise text.length")
        elif text.kind != "hashed_words" and len(words) * _TOKENS_A_WORD > text.length:
            what = f"it has {len(words)} words, about {len(words) * _TOKENS_A_WORD:.0f} tokens of {text.length}"
            yield Finding("warning", "text", where, what, "shorten it: what is over is cut off")
        if clean_instruction(used) != used:
            yield Finding("warning", "text", where, "it has odd white space, quotes or invisible characters",
                          f"write it as {clean_instruction(used)[:60]!r}, as a robot will send it")  # fmt: skip
        other = spelled.setdefault(" ".join(words), task)
        if other != task:
            yield Finding("warning", "text", where, f"it differs from {other[:60]!r} in spelling alone",
                          "spell one task in one way")  # fmt: skip
        if isinstance(seen, list) and seen and task not in seen and used not in seen:
            yield Finding("warning", "text", where, f"the statistics list {len(seen)} instructions, not this one",
                          "measure them again, or expect words that the policy never saw")  # fmt: skip


def _windows(dataset: Dataset, config: LightWAMConfig) -> Iterator[Finding]:
    """Whether a window fits."""
    try:
        index = WindowIndex(dataset, config)
    except DataError as error:
        yield from_error(error, str(dataset.root), "window")
        return
    if dataset.whole_windows:
        starts = [episode.start for episode in dataset.episodes]
        with_window = set(np.searchsorted(starts, index.rows, "right").tolist())
        short = [e.index for i, e in enumerate(dataset.episodes, 1) if i not in with_window]
        if short:
            what = f"episodes {short[:5]} are shorter than a window of {config.video.window} steps"
            yield Finding("note", "window", str(dataset.root), what, "they are left out")


def _check_together(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Data sets of one run that do not go together."""
    for i, dataset in enumerate(datasets):
        for other in datasets[:i]:
            where = f"{dataset.root} and {other.root}"
            if dataset.root.resolve() == other.root.resolve():
                yield Finding("warning", "mixture", where, "they are one folder", "name it once")
                continue
            for name, mine, theirs in (
                ("widths of state and action", _widths(dataset), _widths(other)),
                ("control steps a second", _rate(dataset), _rate(other)),
            ):
                if mine != theirs and None not in (mine, theirs):
                    yield Finding("error", "mixture", where, f"they have different {name}, {mine} and {theirs}",
                                  "train on sets of one robot and one rate")  # fmt: skip


def _widths(dataset: Dataset) -> tuple[int, int]:
    return dataset.state.shape[1], dataset.action.shape[2]


def _rate(dataset: Dataset) -> float | None:
    return None if dataset.fps is None else dataset.fps * dataset.action_substeps
