# SPDX-License-Identifier: Apache-2.0
"""`lightwam data check`: what usually goes wrong in a data set, in plain words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.parse import Positional
from lightwam.config.selection import Selection


@dataclass(frozen=True, kw_only=True)
class CheckArgs(Selection):
    """Check data sets before training on them; exit status 1 if training would be wrong."""

    data: Positional[tuple[Path, ...]]
    """Folders of data sets: LeRobot, real-robot HDF5, RoboTwin."""
    config: str | None = None
    """Preset (libero, robotwin, nano) or JSON file: a configuration, or a robot on top of one. Without it, only what
    needs no robot is checked."""
    statistics: Path | None = None
    """Statistics file that the data will be normalised with: is it of this data?"""
    reference: Path | None = None
    """Folder with CAMERA.png, a frame of each camera as the live robot delivers it: do the data's frames lie so?"""
    quick: bool = False
    """Decode no frame: tables, metadata and names of files alone, as training does itself."""
    json: bool = False
    """Print the findings as JSON."""


def main(arguments: CheckArgs) -> int:
    """Print one line a finding; 1 if there is an error among them. Raises `ConfigError`, `DataError`."""
    from lightwam.config import read_config
    from lightwam.data.check import check_folders
    from lightwam.data.check_frames import Reference
    from lightwam.data.normalize import read_statistics
    from lightwam.errors import ConfigError

    if not arguments.data:
        raise ConfigError("no data set is given: name at least one folder")
    if arguments.reference is not None and (arguments.config is None or arguments.quick):
        raise ConfigError("--reference requires --config, and not --quick: frames are compared by the robot's file")
    if arguments.statistics is not None and arguments.config is None:
        raise ConfigError("--statistics requires --config, which says how they are used: give it too")
    findings = check_folders(
        arguments.data,
        None if arguments.config is None else read_config(arguments.config),
        None if arguments.statistics is None else read_statistics(arguments.statistics),
        arguments,
        frames=not arguments.quick,
        reference=None if arguments.reference is None else Reference.read(arguments.reference),
        show=not arguments.quick,
    )
    counts = {name: sum(f.severity == name for f in findings) for name in ("error", "warning", "note")}
    if arguments.json:
        print(json.dumps({"findings": [finding.document() for finding in findings], "counts": counts}, indent=1))
    else:
        for finding in findings:
            print(finding)
        print(", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()))
    return 1 if counts["error"] else 0
