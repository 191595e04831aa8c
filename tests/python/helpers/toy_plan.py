# SPDX-License-Identifier: Apache-2.0
"""A plan for the toy simulator, whose steps take milliseconds, and what runs them without processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.toy_sim import NAME
from lightwam import cli
from lightwam.errors import StageError


def toy_document(**recording: Any) -> dict[str, Any]:
    """The plan's JSON; changes are of the options of its stage `record`."""
    options = {"sim": NAME, "out": "{data}", "episodes": 3, "clips": 2, "seed": 5, **recording}
    return {
        "about": "A point reaches a target.", "name": "toy", "measured": "no machine",
        "stages": {
            "record": {
                "verb": "record", "options": options, "makes": {"data": "data"}, "workers": "processes",
                "smoke": {"episodes": 1}, "seconds": {"fixed": 10, "episodes": 100, "clips": 50},
                "megabytes": {"episodes": 2},
            },
            "replay": {
                "verb": "train replay", "options": {"sim": NAME, "out": "{replay}", "state": 2},
                "makes": {"replay": "replay.npz"},
            },
            "evaluate": {
                "verb": "eval",
                "options": {"sim": NAME, "policy": "{replay}", "tasks": "0-1", "trials": 2, "out": "{result_{each}}"},
                "each": {"official": {"states": "official"}, "shifted": {"states": "shifted"}},
                "smoke_each": ["shifted"], "makes": {"result_{each}": "results/{each}.json"},
                "seconds": {"trials*tasks": 3},
            },
            "check": {"verb": "data check", "arguments": ["{data}"]},
        },
    }  # fmt: skip


def write_plan(path: Path, document: dict[str, Any]) -> Path:
    """The plan's file."""
    path.write_text(json.dumps(document))
    return path


class InProcess:
    """Runs commands in this process; `ran` has their steps' names. Fails at the step `fails`."""

    def __init__(self, fails: str = "") -> None:
        self.ran: list[str] = []
        self.fails = fails

    def __call__(self, words: Sequence[str], name: str, log: Path) -> None:
        self.ran.append(name)
        if name == self.fails:
            raise StageError(f"{name} ended with status 2")
        if words[:2] == ["data", "check"]:  # of another robot
            return
        assert cli.main(list(words)) == 0, words
