# SPDX-License-Identifier: Apache-2.0
"""Engines tell names, units and ranges of their state and actions, and the words that their text encoder saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.exported import nano_policy
from helpers.golden import tiny_config
from helpers.robots import with_robot
from lightwam.assets import bundled_engine
from lightwam.cli.inspect import InspectArgs
from lightwam.cli.inspect import main as inspect
from lightwam.config import GripperRule, LightWAMConfig
from lightwam.engine.file import read_engine
from lightwam.errors import DataError, ExportError
from lightwam.export import export_engine
from lightwam.export.exporter import trained_instructions
from lightwam.export.policy import Normalization, policy_section
from lightwam.runtime import Policy


def statistics(**limits: tuple[float, float]) -> dict[str, Any]:
    """Of nano's widths, by the names of the statistics' pairs."""
    widths = {"state": 8, "action": 7}
    return {
        field: {"default": {f"global_{name}": [end] * width for pair, ends in limits.items()
                            for name, end in zip(pair.split("_"), ends, strict=True)}}
        for field, width in widths.items()
    }  # fmt: skip


def section(config: LightWAMConfig, normalization: Normalization | None) -> dict[str, Any]:
    return policy_section(config, "latents", (16, 8, 8), 4, normalization, None)


def test_an_exported_engine_tells_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, vae, text = nano_policy()
    measured = {**statistics(min_max=(-1.0, 2.0)), "instructions": ["Pick up the milk", "put it down!"]}
    path = tmp_path / "nano.lwam"
    export_engine(model, path, vae=vae, text_encoder=text, normalizer=measured, parity_seeds=())
    told = Policy(path, threads=1).metadata["policy"]
    assert told["state"][3] == {"name": "axis_angle_x", "unit": "rad", "range": [-1.0, 2.0]}
    assert [entry["name"] for entry in told["action"]][-2:] == ["delta_axis_angle_z", "gripper"]
    assert told["action"][-1] == {"name": "gripper", "unit": "1", "range": [-1.0, 1.0]}  # behind the rule
    assert told["text_encoder"]["words"] == ["down", "it", "milk", "pick", "put", "the", "up"]
    inspect(InspectArgs(path))
    shown = capsys.readouterr().out
    assert "axis_angle_x -1 to 2 rad" in shown and "7 words seen in training" in shown


def test_without_statistics_names_alone_are_told() -> None:
    told = section(tiny_config(), None)
    assert told["state"][0] == {"name": "x", "unit": "1", "range": None}
    assert {entry["range"] for entry in told["action"]} == {None}


@pytest.mark.parametrize(
    ("mode", "limits", "expected"),
    [
        ("q01/q99", {"min_max": (-3.0, 3.0), "q01_q99": (-1.0, 1.0)}, [-3.0, 3.0]),
        ("q01/q99", {"q01_q99": (-1.0, 1.0)}, [-1.0, 1.0]),
        ("z-score", {"mean_std": (0.0, 1.0)}, None),
    ],
)
def test_the_range_is_what_the_statistics_tell(mode: str, limits: Any, expected: Any) -> None:
    config = tiny_config()
    config = with_robot(config, normalization=replace(config.robot.normalization, state=mode, action=mode))
    told = section(config, Normalization.from_statistics(config, statistics(**limits)))
    assert told["state"][5]["range"] == expected


def test_a_linear_gripper_is_told_in_the_robots_units() -> None:
    config = with_robot(tiny_config(), gripper=GripperRule("gripper", 1.0, 0.0, 0.0, 255.0))
    told = section(config, Normalization.from_statistics(config, statistics(min_max=(0.0, 1.0))))
    assert told["action"][-1]["range"] == [0.0, 255.0] and told["action"][0]["range"] == [0.0, 1.0]


def test_bad_statistics_are_named() -> None:
    assert trained_instructions({}) is None and trained_instructions(None) is None
    for listed in ("pick", {"a": 1}, ["pick", 3]):
        with pytest.raises(DataError, match="statistics: instructions is"):
            trained_instructions({"instructions": listed})
    config = tiny_config()
    with pytest.raises(DataError, match="global_max"):
        Normalization.from_statistics(
            with_robot(config, normalization=replace(config.robot.normalization, state="-1/1", action="-1/1")),
            statistics(min_max=(0.0, float("nan"))),
        )


def test_masked_arrays_are_refused() -> None:
    config = tiny_config()
    identity = Normalization.identity(config)
    hidden = np.ma.masked_array(np.ones(8), [0] * 7 + [1])
    with pytest.raises(ExportError, match="normalizer state_scale is a masked array"):
        replace(identity, state_scale=hidden).check(config)
    measured = statistics(min_max=(0.0, 1.0))
    measured["state"]["default"]["global_min"] = hidden
    with pytest.raises(DataError, match="global_min"):
        Normalization.from_statistics(config, measured)
    model, vae, text = nano_policy()
    rows = np.ma.masked_array(np.ones((2, 64), np.float32), np.zeros((2, 64)))
    with pytest.raises(ExportError, match="context of 'go' is a masked array"):
        export_engine(model, "no.lwam", vae=vae, text_encoder=text, instructions={"go": rows}, parity_seeds=())


def test_texts_that_look_alike_are_one_instruction() -> None:
    model, vae, text = nano_policy()
    rows = np.ones((2, 64), np.float32)
    with pytest.raises(ExportError, match="one is given twice"):
        known = {"pick it up": rows, "pick\u00a0it up ": rows}
        export_engine(model, "no.lwam", vae=vae, text_encoder=text, instructions=known, parity_seeds=())


def test_the_bundled_engine_tells_what_it_was_trained_on() -> None:
    """The ranges follow from its min/max normaliser, and the words from its one task."""
    graph = read_engine(bundled_engine())
    units = graph.policy["normalizer"]
    for field, width in (("state", 8), ("action", 6)):  # the gripper's is behind its rule
        scale, offset = (np.array(units[f"{field}_{part}"])[:width] for part in ("scale", "offset"))
        limits = np.array([entry["range"] for entry in graph.policy[field]])[:width]
        np.testing.assert_allclose(limits * scale[:, None] + offset[:, None], [[-1, 1]] * width, atol=1e-5)
    assert graph.policy["action"][6]["range"] == [-1, 1]
    assert len(graph.policy["text_encoder"]["words"]) == 10
    assert json.dumps(graph.policy["state"]).count("rad") == 3
