# SPDX-License-Identifier: Apache-2.0
"""Reports of closed-loop runs: what ran where, success, and the latency of chunks, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.errors import ConfigError, DataError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, read_json, replacing_file
from lightwam.sim.closed_loop import Trial
from lightwam.sim.env import Simulator
from lightwam.sim.plan import TrialPlan
from lightwam.sim.policies import PolicyLike, runs_on
from lightwam.sim.tables import success


def content_hash(file: Path) -> str:
    """SHA-256 of a file. Raises ConfigError where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"policy {file} cannot be read ({error.strerror}): give an engine or a baseline") from error


def heading(file: Path, policy: PolicyLike, plan: TrialPlan) -> dict[str, Any]:
    """Which policy ran which trials."""
    return {
        "policy": file.name,
        "policy_sha256": content_hash(file),
        "runs_on": runs_on(policy),
        "protocol": plan.protocol.name,
        "states": plan.states,
        "suite": ", ".join(plan.suites),
        "tasks": [task.index for task in plan.tasks],
        "executed_steps_a_chunk": plan.protocol.steps_to_execute(policy.replan_steps),
    }


def figures(trials: Sequence[Trial]) -> dict[str, Any]:
    """Successes, with Wilson's 95 % interval of their share, and latencies of some trials."""
    return {
        **success(sum(trial.success for trial in trials), len(trials)),
        "latency": latency_summary(trials),
        "stages": stage_summary(trials),
    }


def latency_summary(trials: Sequence[Trial]) -> dict[str, float]:
    """Chunk latency over all trials in milliseconds: p50, p95, p99, mean, and the number of chunks.

    The very first chunk, which warms the engine up, is left out where there are others.
    """
    seconds = [value for trial in trials for value in trial.latencies]
    measured = np.array(seconds[1:] if len(seconds) > 1 else seconds) * 1e3
    if measured.size == 0:
        return {"chunks": 0}
    p50, p95, p99 = np.percentile(measured, [50, 95, 99])
    return {
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
        "mean_ms": round(float(measured.mean()), 3),
        "chunks": int(measured.size),
    }


def stage_summary(trials: Sequence[Trial]) -> dict[str, float]:
    """Median milliseconds of every stage that the policy reports (in seconds)."""
    chunks = [stages for trial in trials for stages in trial.stages]
    names = sorted({name for stages in chunks for name in stages})
    return {name: round(1e3 * float(np.median([s[name] for s in chunks if name in s])), 3) for name in names}


def environment_report(simulator: Simulator) -> dict[str, Any]:
    """What ran where: versions, CPUs, renderer, and whether torch was in this process."""
    versions = {}
    for name in ("lightwam", *simulator.packages, "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "renderer": simulator.renderer(),
        "torch_imported": "torch" in sys.modules,
    }


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report. Raises DataError where it is missing or no report."""
    report = read_json(path, "report", DataError, "make it with `lightwam eval`")
    if "successes" not in report or "trials" not in report:
        raise DataError(f"report {path} has no successes and trials: make it with `lightwam eval`")
    return report


def film_folders(path: Path, report: Mapping[str, Any]) -> list[Path]:
    """Where the films lie that a report in the file `path` names. Raises DataError where that is no list of words."""
    folders = report.get("videos", [])
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise DataError(f"report {path} is damaged (videos is no list of folders): make it again with `lightwam eval`")
    return [path.parent / folder for folder in folders]


def prepare_output(path: Path) -> None:
    """Make the folder of a report before the work whose result it takes. Raises ConfigError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"report {path} cannot be written ({error.strerror}): choose another --out") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"report {path} cannot be written (a folder, or in a read-only one): choose another --out")
    check_output(path, "a report", ConfigError, _is_report)


def _is_report(path: Path, _: FileKind) -> bool:
    return b'"successes"' in path.read_bytes()


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    with replacing_file(path) as building:
        building.write_text(json.dumps(report, indent=1) + "\n")


def summary_line(report: dict[str, Any]) -> dict[str, Any]:
    """The few figures of a report that stand beside another one."""
    names = (
        "policy", "protocol", "states", "suite", "tasks", "successes", "trials", "interval_95", "rows", "latency",
        "unfinished",
    )  # fmt: skip
    return {name: report[name] for name in names if name in report}
