# SPDX-License-Identifier: Apache-2.0
"""`lightwam data stats`: statistics of states and actions, from tables alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightwam.cli.parse import Positional
from lightwam.config.selection import Selection


@dataclass(frozen=True, kw_only=True)
class StatsArgs(Selection):
    """Measure the statistics of data sets; no frame is decoded."""

    data: Positional[tuple[Path, ...]]
    """Folders of data sets: LeRobot, real-robot HDF5, RoboTwin. They are measured together."""
    config: str
    """Preset (libero, robotwin, nano) or JSON file: a configuration, or a robot on top of one."""
    out: Path
    """File to write (.json), such as dataset_stats.json; a statistics file that is there is replaced."""
    definition: Literal["ours", "published"] = "ours"
    """ours: each row counts once. published: as the published code measures, over windows and episodes."""
    form: Literal["ours", "lerobot"] = "ours"
    """How the file is written: ours, which is the published one; or as LeRobot's meta/stats.json."""
    resample: Literal["refuse", "stride", "interpolate"] = "refuse"
    """What is done about data at another rate than the robot's: nothing, rows are left out, or any rate is made."""
    sample_stride: int = 1
    """Every so many-th control step of a window (with --definition published)."""


def main(arguments: StatsArgs) -> int:
    """Write the file. Raises `ConfigError`, `DataError`."""
    from lightwam.config import read_config
    from lightwam.data.published_statistics import published_statistics
    from lightwam.data.sources import open_datasets
    from lightwam.data.windows import lerobot_statistics, measure_statistics
    from lightwam.errors import ConfigError
    from lightwam.files import check_output, replacing_file

    published = arguments.definition == "published"
    if published and arguments.form == "lerobot":
        raise ConfigError("--form lerobot has no published definition: leave one of them out")
    if arguments.sample_stride < 1 or (arguments.sample_stride > 1 and not published):
        raise ConfigError(f"--sample-stride is {arguments.sample_stride}: use 1, or more with --definition published")
    check_output(arguments.out, "statistics", ConfigError, lambda path, _: _is_statistics(path), arguments.data)
    config = read_config(arguments.config)
    datasets = open_datasets(arguments.data, config, arguments, arguments.resample, arguments.sample_stride)
    measured: dict[str, Any]
    if published:
        measured = published_statistics(datasets, config, arguments.sample_stride)
    else:
        measured = (lerobot_statistics if arguments.form == "lerobot" else measure_statistics)(datasets, config)
    with replacing_file(arguments.out) as part:
        part.write_text(json.dumps(measured, indent=1) + "\n")
    rows, episodes = sum(len(d.state) for d in datasets), sum(len(d.episodes) for d in datasets)
    print(f"{arguments.out}: {episodes} episodes, {rows} rows")
    return 0


def _is_statistics(path: Path) -> bool:
    from lightwam.data.normalize import read_statistics
    from lightwam.errors import DataError

    try:
        return bool({"state", "action"} & set(read_statistics(path)))
    except DataError:
        return False
