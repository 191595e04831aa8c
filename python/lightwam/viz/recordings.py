# SPDX-License-Identifier: Apache-2.0
"""Which recordings are drawn, and the folder that is written: what all pictures have in common. No PyTorch."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightwam.config import LightWAMConfig
from lightwam.config.selection import Selection
from lightwam.data.resample import Resampling
from lightwam.errors import ConfigError, DataError
from lightwam.extras import how_to_install
from lightwam.files import check_output, replacing_folder
from lightwam.pictures import can_draw, draw

if TYPE_CHECKING:
    from lightwam.data.dataset import Dataset, Episode

Kind = Literal["attention", "future", "actions"]


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Recordings that are drawn, and where the pictures go. Raises `ConfigError` for numbers that make no sense."""

    data: Path
    """Folder of the recordings: LeRobot, real-robot HDF5, RoboTwin."""
    out: Path
    """Folder to write. An older one that holds the same kind of pictures is replaced as a whole."""
    episodes: str | None = None
    """Numbers of the episodes that are drawn, as the data set counts them: 3, 0-9 or 0-2,7, or 'all' (default: the
    first one)."""
    resample: Resampling = "refuse"
    """What is done about data at another rate than the robot's: nothing, rows are left out, or any rate is made."""

    def __post_init__(self) -> None:
        self.selection()

    def selection(self) -> Selection:
        """The chosen episodes."""
        return Selection(max_episodes=1) if self.episodes is None else Selection(episodes=(self.episodes,))


def require_positive_counts(**counts: int) -> None:
    """Raise `ConfigError` for an option, named as its field, that is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {count}: use at least 1")


def check_pictures(recordings: Recordings, kind: Kind, policy: Path) -> None:
    """Before any work: whether pictures can be drawn, and the folder may be written.

    Raises `DataError` where matplotlib is missing, `ConfigError` where the folder holds other things than these
    pictures, or one of the inputs.
    """
    if not can_draw():
        raise DataError(f"pictures need matplotlib, which is not installed: {how_to_install(('train',))}")
    ours = re.compile(rf"{kind}(_\d{{6,}}\.(png|mp4)|\.json)")
    check_output(
        recordings.out, f"pictures of 'viz {kind}'", ConfigError,
        lambda path, _: all(ours.fullmatch(entry.name) for entry in path.iterdir()),
        [policy, recordings.data], folder=True,
    )  # fmt: skip


def open_recordings(recordings: Recordings, config: LightWAMConfig) -> Dataset:
    """The chosen episodes. Raises `DataError`: one is not there, or the data are not of the configuration's robot."""
    from lightwam.data.sources import open_datasets  # not for --help

    (dataset,) = open_datasets([recordings.data], config, recordings.selection(), recordings.resample)
    return dataset


def file_name(kind: Kind, episode: Episode, suffix: str) -> str:
    """Such as attention_000003.png."""
    return f"{kind}_{episode.index:06d}{suffix}"


@contextlib.contextmanager
def writing(recordings: Recordings, kind: Kind) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder to fill, and the content of its file of figures, KIND.json; both appear when the block ends well."""
    with replacing_folder(recordings.out) as folder:
        figures: dict[str, Any] = {"data": str(recordings.data), "episodes": {}}
        yield folder, figures
        (folder / f"{kind}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def drawn(path: Path, fill: Callable[[Any], None], size: tuple[float, float]) -> None:
    """Draw a picture of `size` inches. Raises `DataError` where matplotlib fails."""
    if not draw(path, fill, size=size, dpi=120):
        raise DataError(f"picture {path.name} could not be drawn: the log says why")


def title(dataset: Dataset, episode: Episode, what: str) -> str:
    """The line over a picture."""
    return f"{what}: {dataset.root.name}, episode {episode.index}, {episode.task!r}"


def rounded(values: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """Figures for a file that people read."""
    return {name: round(float(value), digits) for name, value in values.items()}
