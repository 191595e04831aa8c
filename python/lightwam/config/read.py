# SPDX-License-Identifier: Apache-2.0
"""What `--config` names: a preset, a whole configuration, or a robot file on top of one of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightwam.config.policy import LightWAMConfig, preset
from lightwam.config.robot import RobotConfig
from lightwam.config.serialize import dataclass_from_dict
from lightwam.errors import ConfigError
from lightwam.files import read_json

PRESETS = ("libero", "robotwin", "nano")


def read_config(source: str | os.PathLike[str]) -> LightWAMConfig:
    """The configuration that a name or a file stands for.

    Args:
        source: a preset ('libero', 'robotwin', 'nano'), or a JSON file: a whole configuration in our field names or the
            published ones, or a robot file, `{"base": ..., "robot": {...}}`. There `base` names a preset or a whole
            configuration (a path from the robot file's folder) and `robot` replaces the base's robot. Any further field
            of `LightWAMConfig` replaces that of the base; in sections, field by field. Unless it has a `name`, such a
            configuration is called BASE-ROBOT.

    Raises:
        ConfigError: a file that is missing or damaged, or a bad value.
    """
    name = os.fspath(source)
    if name in PRESETS:
        return preset(name)
    if not Path(name).is_file():
        raise ConfigError(f"configuration {name!r} is no preset ({', '.join(PRESETS)}) and no file: give one of them")
    return config_from_document(_read(Path(name)), Path(name))


def config_from_document(document: Mapping[str, Any], path: Path) -> LightWAMConfig:
    """As `read_config`, of a file's content; `path` is the file. Raises `ConfigError`."""
    return _on_base(document, path) if "base" in document else _whole(document)


def _on_base(document: Mapping[str, Any], path: Path) -> LightWAMConfig:
    """The content of a robot file, put on its base."""
    changes = dict(document)
    base, robot = str(changes.pop("base")), None
    if "robot" in changes:
        robot = dataclass_from_dict(RobotConfig, changes.pop("robot"), "robot")
    if base in PRESETS:
        config = preset(base)
    else:
        below = _read(path.parent / base)
        if "base" in below:
            raise ConfigError(f"robot file {path}: its base {base!r} is a robot file: name a preset or a whole one")
        config = _whole(below, robot)
    if robot is not None:
        changes.setdefault("name", f"{config.name}-{robot.name}")
        config = config.with_robot(robot)
    merged = config.to_dict()
    for name, value in changes.items():
        in_section = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = {**merged[name], **value} if in_section else value
    return LightWAMConfig.from_dict(merged)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "configuration", ConfigError, "give the path of a JSON file")


def _whole(document: Mapping[str, Any], robot: RobotConfig | None = None) -> LightWAMConfig:
    if "video_dit_config" in document:
        return LightWAMConfig.from_published(document, robot)
    return LightWAMConfig.from_dict(document)
