# SPDX-License-Identifier: Apache-2.0
"""The file beside an engine that says which tactics are fast on which GPU (docs/reference/launch-plan.md, section 3.1).

The C++ runtime reads it (csrc/cuda/tuning_file.cpp); here it is written, and read for reports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightwam.files import load_json, replacing_file

FORMAT, FORMAT_VERSION = "lightwam-tuning", 1


@dataclass(frozen=True)
class TaskTiming:
    """The tactics of a task: what each is like, and seconds of all the task's `launches`, by tactic.

    Launches are those of a chunk or of an instruction. `chosen`: index of the tactic to run; 0 is the default.
    """

    label: str
    kernel: str
    launches: int
    tactics: tuple[str, ...]
    seconds: tuple[float, ...]
    chosen: int


@dataclass(frozen=True)
class Tuning:
    """The fastest tactics of an engine on a GPU; true for this GPU, target, driver and launch plan.

    driver: the CUDA version that it supports, 12060 for 12.6. plan: digest of the launch plan and its machine code.
    default_seconds, tuned_seconds: the launches of a chunk as one graph, with the default and the chosen tactics.
    cosine: of the actions that both compute.
    library: "cuBLASLt 13.1.0" where its tactics, the last of their tasks, were timed too. why_no_library: one line if
    the plan names one that is not there (not kept in the file).
    """

    gpu: str
    target: str
    driver: int
    plan: str
    tasks: tuple[TaskTiming, ...]
    default_seconds: float
    tuned_seconds: float
    cosine: float
    library: str = ""
    why_no_library: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of the file: `tactics` is what a policy reads, the rest is for reports."""
        document = asdict(self)
        del document["why_no_library"]
        tasks = [{key: value for key, value in task.items() if key != "chosen"} for task in document.pop("tasks")]
        return {**document, "tactics": [task.chosen for task in self.tasks], "tasks": tasks}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Tuning:
        """The reverse of `to_json`. KeyError, TypeError or ValueError for something else."""
        fields = {key: value for key, value in entry.items() if key != "tactics"}
        tasks = tuple(
            TaskTiming(**{**task, "tactics": tuple(task["tactics"]), "seconds": tuple(task["seconds"])}, chosen=chosen)
            for task, chosen in zip(entry["tasks"], entry["tactics"], strict=True)
        )
        return cls(**{**fields, "tasks": tasks})


def tuning_path(engine: str | os.PathLike[str]) -> Path:
    """Where the tuning of an engine file lies: "policy.lwam.tuning.json"."""
    engine = Path(engine)
    return engine.with_name(f"{engine.name}.tuning.json")


def read_tunings(engine: str | os.PathLike[str]) -> tuple[Tuning, ...]:
    """The entries of an engine's tuning file. OSError where there is none, ValueError (one line) for a damaged one."""
    return _read(tuning_path(engine))


def _read(path: Path) -> tuple[Tuning, ...]:
    try:
        document = load_json(path)
        if document["format"] != FORMAT or document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{document['format']!r} version {document['format_version']!r} is unknown")
        return tuple(Tuning.from_json(entry) for entry in document["gpus"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"tuning file {path}: {type(error).__name__}: {error}"[:600]) from None


def write_tuning(engine: str | os.PathLike[str], tuning: Tuning) -> str:
    """Add an entry to the engine's tuning file, in place of one for the same GPU and driver; an empty text.

    A damaged file is replaced; then the text says in one line what was wrong with it. The file is whole at any time.
    Raises ValueError for times that are not finite; then nothing is replaced.
    """
    replaced = ""
    try:
        others = [entry for entry in read_tunings(engine) if _runs_on(entry) != _runs_on(tuning)]
    except FileNotFoundError:
        others = []
    except ValueError as error:
        others, replaced = [], str(error)
    document = {"format": FORMAT, "format_version": FORMAT_VERSION}
    document |= {"gpus": [entry.to_json() for entry in (*others, tuning)]}
    with replacing_file(tuning_path(engine)) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        _read(part)
    return replaced


def _runs_on(tuning: Tuning) -> tuple[str, str, int]:
    return tuning.gpu, tuning.target, tuning.driver
