# SPDX-License-Identifier: Apache-2.0
"""What a LeRobot data set's rows say of themselves, against its listing of episodes: nothing may be one row off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lightwam.data.dataset import Array, Episode, Report, refuse
from lightwam.errors import DataError


def check_rows(
    root: Path,
    episodes: Sequence[Episode],
    columns: Mapping[str, Array],
    fps: float,
    row_count: int,
    report: Report = refuse,
) -> None:
    """Report a `DataError` wherever the index columns contradict the listing; raise where nothing can be read.

    Args:
        root: the data set's folder, for messages.
        episodes: as listed.
        columns: those of index, frame_index, episode_index, task_index and timestamp that the tables have, [N].
        fps: rows a second.
        row_count: N.
    """
    if "task_index" not in columns:
        raise DataError(f"data set {root} is damaged: its tables have no 'task_index'; record it again")
    for episode in episodes:
        if episode.start < 0 or episode.length < 1 or episode.stop > row_count:
            raise DataError(
                f"data set {root} is damaged: episode {episode.index} claims rows {episode.start}..{episode.stop} "
                f"of {row_count}; record it again"
            )
        span = slice(episode.start, episode.stop)
        _check_episode(root, episode, {name: column[span] for name, column in columns.items()}, fps, report)
    claimed = np.zeros(row_count, np.int64)
    for episode in episodes:
        claimed[episode.start : episode.stop] += 1
    if (claimed != 1).any():
        row = int(np.argmax(claimed != 1))
        owners = "no episode" if claimed[row] == 0 else f"{claimed[row]} episodes"
        raise DataError(f"data set {root} is damaged: row {row} of {row_count} belongs to {owners}; record it again")


def _check_episode(root: Path, episode: Episode, columns: Mapping[str, Array], fps: float, report: Report) -> None:
    steps = np.arange(episode.length)
    wanted = {"episode_index": np.full(episode.length, episode.index), "frame_index": steps}
    for name in (name for name in wanted if name in columns):
        wrong = columns[name] != wanted[name]
        if wrong.any():
            at = int(np.argmax(wrong))
            report(
                DataError(
                    f"data set {root} is damaged: row {at} of episode {episode.index} has {name} "
                    f"{columns[name][at]:g} instead of {wanted[name][at]}; record it again"
                )
            )
    if "timestamp" in columns:
        late = columns["timestamp"] * fps - steps
        if np.abs(late).max() > 0.5:
            at = int(np.argmax(np.abs(late) > 0.5))
            report(
                DataError(
                    f"data set {root}: row {at} of episode {episode.index} is at {columns['timestamp'][at]:.3f} s, "
                    f"at {fps:g} rows a second it belongs at {at / fps:.3f} s: rows were dropped, or fps is wrong"
                )
            )
    tasks = columns["task_index"]
    if (tasks != tasks[0]).any():
        at = int(np.argmax(tasks != tasks[0]))
        report(
            DataError(
                f"data set {root}: episode {episode.index} changes from task {tasks[0]:g} to {tasks[at]:g} at row "
                f"{at}: one instruction is used for an episode; cut it in two"
            )
        )
