# SPDX-License-Identifier: Apache-2.0
"""Checks of a data set's numbers: columns that do not move, jumps, repeated rows and episodes, statistics.

Legend: N rows, D width of a field, A action width, P state width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.config import RobotConfig
from lightwam.config.robot import Dimension
from lightwam.data.dataset import Dataset
from lightwam.data.findings import Finding
from lightwam.data.normalize import statistics_of_mode
from lightwam.data.statistics_formats import in_our_form
from lightwam.errors import DataError

Floats = npt.NDArray[np.float32]
_STILL = 1e-4
_SOME = 5


def fields(dataset: Dataset, robot: RobotConfig | None) -> Iterator[tuple[str, Floats, tuple[str, ...], str]]:
    """(state or action, rows [N, D], names of the dimensions, normalisation mode), of what the robot has too."""
    action_ND = dataset.action.reshape(-1, dataset.action.shape[2])
    for name, rows in (("state", dataset.state), ("action", action_ND)):
        dimensions: tuple[Dimension, ...] = () if robot is None else getattr(robot, name)
        known = len(dimensions) == rows.shape[1]
        names = tuple(d.name for d in dimensions) if known else tuple(map(str, range(rows.shape[1])))
        yield name, rows, names, "min/max" if robot is None else getattr(robot.normalization, name)


def check_columns(dataset: Dataset, robot: RobotConfig | None) -> Iterator[Finding]:
    """Columns that do not move, and single values far away from all others."""
    root = str(dataset.root)
    for field, rows, names, mode in fields(dataset, robot):
        finite = rows[np.isfinite(rows).all(1)]
        if len(finite) == 0:
            continue
        span = np.ptp(finite, axis=0)
        low, high = np.quantile(finite, (0.01, 0.99), axis=0)
        if field == "action" and (span < _STILL).all():
            what = f"no action moves (dimensions {', '.join(names)} are constant)"
            yield Finding("error", "constant", root, what, "record a moving robot, or name another action column")
            continue
        for name, width, middle in zip(names, span, high - low, strict=True):
            where = f"{root}, {field} {name!r}"
            if width < _STILL:
                yield _constant(where, finite, names.index(name), mode)
            elif mode == "q01/q99" and middle < _STILL:
                what = f"98 % of its values are one, the others spread over {width:g}, and q01/q99 does not scale it"
                yield Finding("warning", "constant", where, what, "normalise by min/max")
        yield from _far_values(root, field, finite, names, mode)


def _constant(where: str, rows: Floats, column: int, mode: str) -> Finding:
    value = f"is always {rows[0, column]:g}"
    if mode == "z-score":
        what = f"{value}: z-score divides by 1e-8 and makes noise of the last digit"
        return Finding("warning", "constant", where, what, "normalise by min/max or q01/q99, or leave it out")
    return Finding("note", "constant", where, value, "nothing is to be learned from it")


def _far_values(root: str, field: str, rows: Floats, names: tuple[str, ...], mode: str) -> Iterator[Finding]:
    """Some rows that lie ten spans of all others away: they make min/max and z-score useless."""
    if mode == "q01/q99" or len(rows) < 20:
        return
    few = max(1, len(rows) // 1000)
    ordered = np.sort(rows, axis=0)
    low, high = ordered[few], ordered[-1 - few]
    spread = high - low
    beyond = np.maximum(ordered[-1] - high, low - ordered[0])
    for column in np.flatnonzero((spread > 1e-6) & (beyond > 10 * spread)):
        worst = int(np.argmax(np.abs(rows[:, column] - np.median(rows[:, column]))))
        what = f"row {worst} is {rows[worst, column]:g}, all others lie from {low[column]:g} to {high[column]:g}"
        where = f"{root}, {field} {names[column]!r}"
        yield Finding("warning", "jump", where, what, "leave the episode out, or normalise by q01/q99")


def check_episodes(dataset: Dataset) -> Iterator[Finding]:
    """Episodes that are there twice, stand still, or whose rows repeat."""
    root, known = str(dataset.root), dict[bytes, int]()
    twice, still, repeated = [], [], []
    for episode in dataset.episodes:
        span = slice(episode.start, episode.stop)
        state, action = dataset.state[span], dataset.action[span].reshape(episode.length, -1)
        digest = hashlib.sha256(state.tobytes() + action.tobytes()).digest()
        if digest in known:
            twice.append(f"{episode.index} = {known[digest]}")
        known.setdefault(digest, episode.index)
        if episode.length <= _SOME:
            continue
        same = (state[1:] == state[:-1]).all(1)
        if np.ptp(action, axis=0).max() > _STILL and same.all():
            still.append(episode.index)
        elif (same & (action[1:] == action[:-1]).all(1)).mean() > 0.4:
            repeated.append(episode.index)
    if twice:
        what = f"episodes are there twice ({_list(twice)})"
        yield Finding("warning", "duplicate", root, what, "leave one of each out: validation would know its answers")
    if still:
        what = f"the state never changes in the episodes {_list(still)} while actions do"
        yield Finding("error", "still", root, what, "leave them out, or name another state column")
    if repeated:
        what = f"rows repeat the one before more than 4 times in 10, in the episodes {_list(repeated)}"
        yield Finding("warning", "repeats", root, what, "the recorder was slower than fps: resample from its true rate")


def check_statistics(dataset: Dataset, robot: RobotConfig, document: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether statistics can be those of this data."""
    root, remedy = str(dataset.root), "measure the statistics on this data: lightwam data stats"
    try:
        document, _ = in_our_form(document)
    except DataError as error:
        yield Finding("error", "statistics", root, str(error), remedy)
        return
    for field, rows, names, mode in fields(dataset, robot):
        needed = statistics_of_mode(mode)
        given = document.get(field, {}).get("default", {})
        try:
            first, second = (np.asarray(given[f"global_{name}"], np.float64) for name in needed)
        except (KeyError, TypeError, ValueError):
            if needed:
                what = f"the statistics of {field} lack {' or '.join(needed)}, which {mode} needs"
                yield Finding("error", "statistics", root, what, remedy)
            continue
        if first.shape != (rows.shape[1],) or second.shape != first.shape:
            what = f"the statistics of {field} are of width {first.size}, the data of {rows.shape[1]}"
            yield Finding("error", "statistics", root, what, remedy)
            continue
        for column, told in _unlike(rows, first, second, mode):
            where = f"{root}, {field} {names[column]!r}"
            yield Finding("error", "statistics", where, f"{told}: they are of other data", remedy)


def _unlike(rows: Floats, first: Any, second: Any, mode: str) -> Iterator[tuple[int, str]]:
    """(column, what) where statistics (minimum and maximum, quantiles, or mean and deviation) are not of these rows."""
    if mode == "z-score":
        mean, std = rows.mean(0), rows.std(0)
        bad = (np.abs(mean - first) > np.maximum(second, std) + _STILL) | (std > 3 * second + _STILL)
        for column in np.flatnonzero(bad):
            yield (
                int(column),
                (
                    f"mean {mean[column]:.4g} and deviation {std[column]:.4g}, the statistics say "
                    f"{first[column]:.4g} and {second[column]:.4g}"
                ),
            )
        return
    margin = 0.05 * (second - first) + _STILL
    outside = ((rows < first - margin) | (rows > second + margin)).mean(0)
    for column in np.flatnonzero(outside > 0.05):
        yield (
            int(column),
            (
                f"{outside[column]:.0%} of the rows lie outside of the statistics' {first[column]:.4g} to "
                f"{second[column]:.4g}"
            ),
        )


def _list(items: list[Any]) -> str:
    text = ", ".join(map(str, items[:_SOME]))
    return text + (f" and {len(items) - _SOME} more" if len(items) > _SOME else "")
