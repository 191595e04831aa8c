# SPDX-License-Identifier: Apache-2.0
"""`lightwam robot from-dataset`: a robot file proposed from a data set, for a person to check."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.parse import Positional


@dataclass(frozen=True)
class FromDatasetArgs:
    """Propose the robot file of a data set: what it states is taken over, the rest is guessed and marked."""

    data: Positional[Path]
    """Folder of a data set: LeRobot, real-robot HDF5, RoboTwin."""
    out: Path
    """Robot file to write (.json). An existing file is never replaced."""
    base: str = "libero"
    """Preset (libero, robotwin, nano) or configuration that the robot file builds on."""
    name: str | None = None
    """Name of the robot (default: the data set's robot type, or its folder)."""
    control_hz: float | None = None
    """Actions a second, for HDF5 sets: they do not tell it."""


def main(arguments: FromDatasetArgs) -> int:
    """Write the file, and print where each part comes from. Raises `ConfigError`, `DataError`."""
    from lightwam.config.read import read_config
    from lightwam.data.propose import propose_robot
    from lightwam.errors import ConfigError
    from lightwam.files import replacing_file
    from lightwam.terminal import table

    out = arguments.out
    if out.exists():
        raise ConfigError(f"--out is {out}, which exists: give another name, a robot file may hold your corrections")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {out}: its folder does not exist, make it first")
    if arguments.control_hz is not None and not 0 < arguments.control_hz < 1e6:
        raise ConfigError(f"--control-hz is {arguments.control_hz}: use more than 0")
    made = propose_robot(arguments.data, arguments.base, arguments.name, arguments.control_hz)
    with replacing_file(out) as part:
        part.write_text(json.dumps(made.document, indent=2) + "\n")
        read_config(part)  # whatever was guessed, the file is valid
    print(table(("field", "value", "from"), made.rows))
    print(f"{out}: {len(set(made.guesses))} fields were guessed: correct them, then lightwam data check "
          f"{arguments.data} --config {out}")  # fmt: skip
    return 0
