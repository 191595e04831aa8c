# SPDX-License-Identifier: Apache-2.0
"""Checks of actions against the states that follow them: lag, sense, units, and the gripper.

An action belongs to a state dimension of the same name; `delta_x` belongs to `x`. A target is compared with the state
some rows later, a delta with the change of the state until the next row.

Legend: N rows, K lags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightwam.config import Dimension, RobotConfig
from lightwam.data.dataset import Dataset
from lightwam.data.findings import Finding

Floats = npt.NDArray[np.float64]
LAGS = range(-4, 9)
_ENOUGH = 50  # rows: fewer agree by chance
_TURN = {"rad": 2 * np.pi, "deg": 360.0}
_UNITS = ((180 / np.pi, "degrees and radians"), (1000.0, "millimetres and metres"))
_LARGEST = {"rad": 4 * np.pi, "m": 20.0}


@dataclass(frozen=True)
class Pair:
    """An action dimension and the state dimension that it moves."""

    name: str
    action: int
    state: int
    delta: bool


def pairs(robot: RobotConfig) -> list[Pair]:
    """Actions and states that belong together by their names."""
    places = {dimension.name: i for i, dimension in enumerate(robot.state)}
    return [
        Pair(dimension.name, i, places[name], dimension.delta)
        for i, dimension in enumerate(robot.action)
        if (name := dimension.name.removeprefix("delta_") if dimension.delta else dimension.name) in places
    ]


def follow(dataset: Dataset, pair: Pair, turn: float) -> tuple[Floats, Floats]:
    """(correlation, error) [K] of the action with what it should lead to, at each of `LAGS`.

    A target is compared with the state so many rows later; the error is the root of the mean square over the state's
    deviation. A delta is compared with the state's change, so many rows later; its error is infinite.
    """
    action_N, state_N = _column(dataset, pair), dataset.state[:, pair.state].astype(np.float64)
    correlations, errors = [], []
    for lag in LAGS:
        given, reached = [], []
        for episode in dataset.episodes:
            ahead = lag + pair.delta
            rows = np.arange(episode.start, episode.stop)
            rows = rows[(rows + min(lag, 0) >= episode.start) & (rows + max(ahead, 0) < episode.stop)]
            given.append(action_N[rows])
            there = state_N[rows + ahead] - state_N[rows + lag] if pair.delta else state_N[rows + lag]
            reached.append(there)
        a, s = np.concatenate(given), np.concatenate(reached)
        if pair.delta and np.isfinite(turn):  # a jump of an angle is no movement
            a, s = a[np.abs(s) < turn / 2], s[np.abs(s) < turn / 2]
        correlations.append(_correlation(a, s))
        spread = s.std() if len(s) >= _ENOUGH else 0.0
        errors.append(np.inf if pair.delta or spread < 1e-6 else float(np.sqrt(((a - s) ** 2).mean()) / spread))
    return np.array(correlations), np.array(errors)


def check_motion(dataset: Dataset, robot: RobotConfig) -> Iterator[Finding]:
    """Actions that come late or early, point the wrong way, copy the state, or have other units than it."""
    widths = (dataset.state.shape[1], dataset.action.shape[2])
    if widths != (len(robot.state), len(robot.action)) or not np.isfinite(dataset.action).all():
        return
    yield from _units(dataset, robot)
    late: dict[int, list[str]] = {}
    copies = []
    for pair in pairs(robot):
        where = f"{dataset.root}, action {pair.name!r}"
        turn = _TURN.get(robot.state[pair.state].unit, np.inf)
        correlation_K, error_K = follow(dataset, pair, turn)
        best = int(np.nanargmax(np.abs(correlation_K)))
        strongest = correlation_K[best]
        if strongest < -0.7 and -correlation_K.min() > 1.5 * max(correlation_K.max(), 0.0):
            what = f"moves against its state (correlation {strongest:.2f})"
            yield Finding("error", "sense", where, what, "turn the sign of one of them when the data is recorded")
            continue
        if pair.delta:
            lag = LAGS[best] if abs(strongest) > 0.6 else 0
            clear = abs(strongest) > 1.25 * abs(correlation_K[LAGS.index(0)])
            if lag < 0 and clear:
                late.setdefault(lag, []).append(pair.name)
            continue
        yield from _scale(dataset, pair, where, strongest)
        at = int(np.argmin(error_K))
        now = error_K[LAGS.index(0) :].min()
        if error_K[at] < 0.3 and LAGS[at] < 0 and error_K[at] < 0.5 * now:
            late.setdefault(LAGS[at], []).append(pair.name)
        if error_K[LAGS.index(0)] < 1e-6:
            copies.append(pair.name)
    for lag, names in late.items():
        what = f"actions {', '.join(names)} come {-lag} rows late: they fit states that were there already"
        yield Finding("error", "lag", str(dataset.root), what, f"shift the actions {-lag} rows ahead")
    if copies and 2 * len(copies) > len(pairs(robot)):  # a gripper's alone is usual
        what = f"actions {', '.join(copies)} equal the states of their own rows"
        remedy = "use the states of the next rows as actions, or the commands that were sent"
        yield Finding("warning", "lag", str(dataset.root), what, remedy)


def _scale(dataset: Dataset, pair: Pair, where: str, correlation: float) -> Iterator[Finding]:
    """Targets in other units than their states."""
    if correlation < 0.8:
        return
    action, state = _column(dataset, pair).std(), dataset.state[:, pair.state].std()
    ratio = max(action, state) / max(min(action, state), 1e-12)
    for factor, names in _UNITS:
        if 0.8 * factor < ratio < 1.25 * factor:
            what = f"spreads {action / max(state, 1e-12):.3g} times as far as its state: {names} are mixed"
            yield Finding("error", "units", where, what, "record both in one unit")


def _units(dataset: Dataset, robot: RobotConfig) -> Iterator[Finding]:
    """Values that the unit of the robot's file cannot have."""
    fields = (("state", robot.state, dataset.state), ("action", robot.action, dataset.action))
    for field, dimensions, values in fields:
        largest = np.abs(values.reshape(-1, values.shape[-1])).max(0)
        for dimension, value in zip(dimensions, largest, strict=True):
            if value > _LARGEST.get(dimension.unit, np.inf):
                where = f"{dataset.root}, {field} {dimension.name!r}"
                what = f"reaches {value:g} {dimension.unit}"
                yield Finding("warning", "units", where, what, "correct the unit in the robot's file")
        angles = np.array([dimension.unit == "deg" for dimension in dimensions])
        if angles.any() and 0.5 < largest[angles].max() < 1.1 * np.pi:
            what = f"no {field} in deg is above {largest[angles].max():.3g}: they look like radians"
            yield Finding("warning", "units", str(dataset.root), what, "set unit rad in the robot's file")


def check_gripper(dataset: Dataset, robot: RobotConfig) -> Iterator[Finding]:
    """A gripper that never moves, or whose sense contradicts the fingers or how episodes begin."""
    rule, column = robot.gripper, robot.gripper_column
    if rule is None or column is None or column >= dataset.action.shape[2] or not np.isfinite(dataset.action).all():
        return
    where = f"{dataset.root}, gripper {rule.dimension!r}"
    scale, shift = rule.to_openness
    open_N = dataset.action[:, 0, column].astype(np.float64) * scale + shift
    if np.ptp(dataset.action[..., column]) < 1e-4:
        what = f"is always {dataset.action[0, 0, column]:g}"
        yield Finding(
            "warning", "gripper", where, what, "record the commands of the gripper, or name another dimension"
        )
        return
    if np.ptp(dataset.action[..., column]) < 0.25 * abs(rule.data_open - rule.data_closed):
        low, high = dataset.action[..., column].min(), dataset.action[..., column].max()
        what = f"moves from {low:g} to {high:g} only, of {rule.data_closed:g} closed to {rule.data_open:g} open"
        yield Finding("warning", "gripper", where, what, "set data_open and data_closed to what the data hold")
    remedy = "exchange data_open and data_closed in the robot's file"
    if (correlation := fingers_follow(dataset, robot.state, open_N)) < -0.3:
        what = f"fingers close when the command opens (correlation {correlation:.2f})"
        yield Finding("error", "gripper", where, what, remedy)
        return
    episodes = [e for e in dataset.episodes if np.ptp(open_N[e.start : e.stop]) > 0.5]
    closed = sum(open_N[episode.start] < 0.5 for episode in episodes)
    if len(episodes) >= 4 and closed > 0.8 * len(episodes) and np.isnan(correlation):
        what = f"{closed} of {len(episodes)} episodes begin closed, if {rule.data_open:g} is open"
        yield Finding("warning", "gripper", where, what, f"if they begin open, {remedy}")


def fingers_follow(dataset: Dataset, state: Sequence[Dimension], open_N: Floats) -> float:
    """Correlation of the command with the change of the fingers' opening in some rows; NaN where nothing tells."""
    names = ("finger", "gripper")
    fingers = [i for i, d in enumerate(state) if d.unit in ("m", "mm") and any(n in d.name for n in names)]
    if not fingers or dataset.state.shape[1] != len(state):
        return float("nan")
    opening_N = np.abs(dataset.state[:, fingers].astype(np.float64)).sum(1)
    given, moved = [], []
    for episode in dataset.episodes:
        ahead = min(3, episode.length - 1)
        if ahead < 1:
            continue
        rows = np.arange(episode.start, episode.stop - ahead)
        given.append(np.mean([open_N[rows + k] for k in range(ahead)], axis=0))
        moved.append(opening_N[rows + ahead] - opening_N[rows])
    if not given:
        return float("nan")
    a, s = np.concatenate(given), np.concatenate(moved)
    moving = np.abs(s) > 0.05 * max(np.ptp(opening_N), 1e-6)
    if moving.sum() < 5 or np.ptp(a[moving]) < 0.5:
        return float("nan")
    correlation = _correlation(a[moving], s[moving], 5)
    return correlation if abs(correlation) * np.sqrt(moving.sum()) > 3 else float("nan")


def _column(dataset: Dataset, pair: Pair) -> Floats:
    """The action of each row: of several in a row the sum of deltas, the last target."""
    values_NS = dataset.action[:, :, pair.action].astype(np.float64)
    return values_NS.sum(1) if pair.delta else values_NS[:, -1]


def _correlation(a: Floats, b: Floats, least: int = _ENOUGH) -> float:
    if len(a) < least or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
