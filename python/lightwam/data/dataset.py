# SPDX-License-Identifier: Apache-2.0
"""A recorded data set, whatever its format: rows in memory, episodes, and where the frames of each camera lie.

The readers (`lerobot`, `real_robot`, `robotwin`) make a `Dataset`; windows, statistics, caches and samples read it and
do not know the format. `lightwam.data.sources.open_dataset` chooses the reader.

Legend: N rows, S control steps a row (1 in most sets), A action width, P state width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.errors import DataError

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Report = Callable[[DataError], None]
"""What is done about a fault of a data set: readers raise it (`refuse`), `lightwam data check` collects all."""


def refuse(error: DataError) -> None:
    """Raise the error."""
    raise error


@dataclass(frozen=True)
class FrameSpan:
    """Where one camera's frames of one episode lie: `count` frames of a file, from frame `first` on."""

    path: Path
    first: int
    count: int
    fps: float | None = None
    """Of a video: frame k is the one at k / fps seconds. None: frames are counted, their times are not read."""
    column: str | None = None
    """None: the file is a video. Else what holds one image a frame: a Parquet file's column, or a place in an HDF5
    file."""
    swapped: bool = False
    """Red and blue have changed places in the encoded images."""
    picks: tuple[int, ...] | None = None
    """Places, from `first` on and never falling, of the `count` frames that are used; None: `count` frames in a row."""


@dataclass(frozen=True)
class Episode:
    """Rows [start, stop) of the data set's tables, and the camera frames that belong to them."""

    index: int
    """The episode's number in the data set's files."""
    start: int
    stop: int
    task: str
    videos: dict[str, FrameSpan]
    action_rows: int | None = None
    """Rows that have an action of their own; the rest repeat the last one. None: all of them."""

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class Columns(Mapping[str, npt.NDArray[np.float32]]):
    """Further columns of a data set, float32 [N, ...]: read when they are asked for, so that the others do not matter.

    Reading one raises `DataError` when it is not numeric, ragged or not finite.
    """

    def __init__(self, names: Sequence[str], load: Callable[[str], Array], rows: Rows | None = None) -> None:
        self._names, self._load, self._rows = tuple(names), load, rows

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        values = self._load(name)
        return values if self._rows is None else values[self._rows]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def take(self, rows: Rows) -> Columns:
        """The same columns of these rows."""
        return Columns(self._names, self._load, rows if self._rows is None else self._rows[rows])


def without_totals(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a set says of itself, of a part of it: without the numbers of episodes and rows."""
    return {name: value for name, value in about.items() if not name.startswith("total_")}


def no_columns() -> Columns:
    """Of formats without further columns."""
    return Columns((), lambda name: np.zeros(0))


@dataclass(frozen=True)
class Dataset:
    """All rows of a data set in memory: state [N, P], action [N, S, A], further columns, and its episodes.

    The episodes lie one after the other and cover all rows. Actions are in the data set's own convention (LIBERO's
    gripper: 0 close, 1 open).
    """

    root: Path
    fps: float | None
    """Rows a second; None: the format does not say."""
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    columns: Columns
    episodes: tuple[Episode, ...]
    cameras: tuple[str, ...]
    whole_windows: bool = False
    """The published loader of this format uses only windows that lie wholly inside an episode."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What a LeRobot set says of itself: meta/info.json."""

    @property
    def action_substeps(self) -> int:
        """Control steps a row holds."""
        return int(self.action.shape[1])

    def check(self, cameras: tuple[str, ...], state_width: int, action_width: int, report: Report = refuse) -> None:
        """Raise `DataError` unless the data set has these widths, and these cameras a frame for every row."""
        missing = sorted(set(cameras) - set(self.cameras))
        if missing:
            report(
                DataError(f"data set {self.root} has cameras {list(self.cameras)}, without {missing}: choose another")
            )
        for name, wanted, found in (
            ("state", state_width, self.state.shape[1]),
            ("action", action_width, self.action.shape[2]),
        ):
            if wanted != found:
                report(DataError(f"data set {self.root} has {name} width {found}: the configuration has {wanted}"))
        for episode in self.episodes:
            for camera in (name for name in cameras if name in self.cameras):
                if episode.videos[camera].count != episode.length:
                    report(
                        DataError(
                            f"data set {self.root} is damaged: episode {episode.index} has {episode.length} rows and "
                            f"{episode.videos[camera].count} frames of {camera!r}; record it again"
                        )
                    )

    def check_rate(self, control_hz: float) -> None:
        """Raise `DataError` unless the control steps of the data set come at this rate.

        Formats that do not know their rate pass: `control_hz` is then taken to be it.
        """
        if self.fps is None:
            return
        rate = self.fps * self.action_substeps
        if abs(rate - control_hz) > 0.01 * control_hz:
            steps = "" if self.action_substeps == 1 else f" of {self.action_substeps} control steps"
            raise DataError(
                f"data set {self.root} has {self.fps:g} rows{steps} a second: its actions come at {rate:g} Hz, "
                f"the configuration's robot takes them at {control_hz:g} Hz; set control_hz in the robot's file to the "
                "rate at which the robot will be driven, or put the data on it with --resample"
            )

    def take(self, positions: Sequence[int]) -> Dataset:
        """The data set of these episodes (places in `episodes`) in this order; its rows are numbered anew."""
        chosen = [self.episodes[position] for position in positions]
        rows = np.concatenate([np.arange(e.start, e.stop) for e in chosen] or [np.zeros(0, np.int64)])
        episodes, start = [], 0
        for episode in chosen:
            episodes.append(replace(episode, start=start, stop=start + episode.length))
            start += episode.length
        return replace(
            self,
            state=self.state[rows],
            action=self.action[rows],
            columns=self.columns.take(rows),
            episodes=tuple(episodes),
            about=self.about if len(chosen) == len(self.episodes) else without_totals(self.about),
        )

    def renamed(self, names: Mapping[str, str]) -> Dataset:
        """The data set with cameras under other names: `names` is old -> new. A camera that had a new name is left out.

        Raises `DataError`: there is no such camera.
        """
        missing = sorted(set(names) - set(self.cameras))
        if missing:
            raise DataError(f"data set {self.root} has cameras {list(self.cameras)}, without {missing}: choose another")
        new = {old: names.get(old, old) for old in self.cameras if old in names or old not in names.values()}
        episodes = tuple(
            replace(episode, videos={new[old]: span for old, span in episode.videos.items() if old in new})
            for episode in self.episodes
        )
        return replace(self, cameras=tuple(new.values()), episodes=episodes)
