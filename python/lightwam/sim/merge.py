# SPDX-License-Identifier: Apache-2.0
"""Joins reports of parts of one evaluation: other tasks, trials or perturbations, all else alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightwam.errors import DataError
from lightwam.files import short
from lightwam.sim.closed_loop import simulators
from lightwam.sim.plan import UNPERTURBED, Key
from lightwam.sim.tables import rows, success

_MAY_DIFFER = ("suite", "tasks", "first_trial", "trials", "perturbations", "runs_on")
_KEPT = (
    "policy", "policy_sha256", "runs_on", "protocol", "states", "executed_steps_a_chunk", "settle_steps",
    "protocol_values", "environment",
)  # fmt: skip

Entry = dict[str, Any]  # of a report's per_task


def merge(reports: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """One report of all trials. A trial that several have counts once, and must have the same outcome.

    Raises DataError where policy, states, protocol, versions or another condition differ, by name; where a trial's
    outcomes differ; where a report has no trials one by one, as those of `demo`.
    """
    first_path, first = next(iter(reports.items()))
    entries: dict[Key, Entry] = {}
    for path, report in reports.items():
        _compare(first_path, first, path, report)
        for entry in report["per_task"]:
            key = (entry["suite"], entry["task"], entry.get("perturb", UNPERTURBED))
            entries[key] = _joined(path, key, entries.get(key), entry)
    per_task = [entries[key] for key in sorted(entries)]
    suites = dict.fromkeys(entry["suite"] for entry in per_task)
    runs_on = dict.fromkeys(str(report["runs_on"]) for report in reports.values())
    conditions = dict(first["conditions"])
    limits = {name: value for one in reports.values() for name, value in one["conditions"].items() if _limit(name)}
    return {
        **{name: first[name] for name in _KEPT},
        "runs_on": "; ".join(runs_on),
        "suite": ", ".join(suites),
        "tasks": [entry["task"] for entry in per_task],
        "conditions": {**{n: v for n, v in conditions.items() if n not in _MAY_DIFFER}, **limits},
        **success(*(sum(entry[name] for entry in per_task) for name in ("successes", "trials"))),
        "latency": _latency(per_task),
        "stages": {},
        "rows": rows(per_task),
        "per_task": per_task,
        "beside": [],
        "merged_from": [str(path) for path in reports],
    }


def _limit(name: str) -> bool:
    return name.startswith("step limit of ")


def _compare(first_path: Path, first: Mapping[str, Any], path: Path, report: Mapping[str, Any]) -> None:
    """Raises DataError by name of the first condition that differs."""
    for one, at in ((first, first_path), (report, path)):
        if not isinstance(one.get("conditions"), dict) or not isinstance(one.get("per_task"), list):
            raise DataError(
                f"report {at} does not say under which conditions it ran: make it again with `lightwam eval`"
            )
    ours, theirs = first["conditions"], report["conditions"]
    for name in dict.fromkeys((*ours, *theirs)):
        if name in _MAY_DIFFER or (_limit(name) and (name not in ours or name not in theirs)):
            continue
        if ours.get(name) != theirs.get(name):
            told = (
                f"{name.replace('_', ' ')} {short(theirs.get(name), 60)}, and {first_path} {short(ours.get(name), 60)}"
            )
            raise DataError(f"{path} has {told}: only parts of one evaluation can be merged")


def _joined(path: Path, key: Key, old: Entry | None, new: Entry) -> Entry:
    """The trials of a task from both. Raises DataError where they contradict each other."""
    if old is None:
        return dict(new)
    runs = {run["index"]: run for run in old["runs"]}
    for run in new["runs"]:
        earlier = runs.setdefault(run["index"], run)
        if (earlier["success"], earlier["steps"]) != (run["success"], run["steps"]):
            told = f"trial {run['index']} of {key[0]} task {key[1]} ({key[2]})"
            raise DataError(
                f"{path} has another outcome of {told} than a report before it: one of them is not what it says"
            )
    every = [runs[index] for index in sorted(runs)]
    counts = success(sum(run["success"] for run in every), len(every))
    return {**old, **counts, "latency": _latency([old, new]), "stages": {}, **simulators(every), "runs": every}


def _latency(entries: Sequence[Entry]) -> dict[str, float]:
    """The mean over all chunks; percentiles do not follow from those of the parts."""
    known = [entry["latency"] for entry in entries if "mean_ms" in entry["latency"]]
    chunks = sum(one["chunks"] for one in known)
    if not chunks:
        return {"chunks": 0}
    return {"mean_ms": round(sum(one["mean_ms"] * one["chunks"] for one in known) / chunks, 3), "chunks": chunks}
