# SPDX-License-Identifier: Apache-2.0
"""A robot file proposed from a data set alone, for a person to check (`lightwam robot from-dataset`).

What the data set states is taken over; what it does not state is guessed from its numbers, and each guess is listed
with its reason. Legend: N rows, A action width, P state width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import FLIPS, LightWAMConfig, read_config
from lightwam.config.robot import Dimension, GripperRule
from lightwam.data.check_motion import LAGS, Pair, fingers_follow, follow
from lightwam.data.check_rows import check_columns
from lightwam.data.dataset import Dataset
from lightwam.data.lerobot import ACTION_KEY, STATE_KEY
from lightwam.data.lerobot import open_dataset as open_lerobot
from lightwam.data.sources import open_dataset
from lightwam.errors import DataError
from lightwam.files import read_json

_INDICES = ("index", "frame_index", "episode_index", "task_index", "timestamp")
_ENDS = (-100.0, -1.0, 0.0, 1.0, 100.0)
_GRIPPER = ("grip", "finger", "claw")


@dataclass
class Proposal:
    """A robot file's content, and where each part of it comes from."""

    document: dict[str, Any]
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    """(field, value, 'data' or why it is a guess)."""

    def note(self, name: str, value: object, source: str = "data") -> None:
        """Remember where a field comes from."""
        self.rows.append((name, str(value), source))

    @property
    def guesses(self) -> list[str]:
        """Names of the fields that were guessed."""
        return [name for name, _, source in self.rows if source != "data"]


@default_arithmetic
def propose_robot(
    folder: Path, base: str = "libero", name: str | None = None, control_hz: float | None = None
) -> Proposal:
    """The robot of a data set.

    Args:
        folder: the data set.
        base: preset or configuration that the robot file builds on.
        name: of the robot; None: the data set's robot type, or the folder's name.
        control_hz: for formats that do not tell their rate.

    Raises:
        DataError: the data set is unreadable, or does not tell its rate and `control_hz` is None.
        ConfigError: an unknown base.
    """
    preset = read_config(base)
    keys = _keys(folder)
    data = open_lerobot(folder, *keys) if keys else open_dataset(folder)
    if not data.cameras:
        raise DataError(f"data set {folder} has no camera: a policy needs at least one")
    rate = control_hz if data.fps is None else data.fps * data.action_substeps
    if rate is None:
        raise DataError(f"data set {folder} does not tell its rate: give --control-hz")
    known = str(data.about.get("robot_type") or "")
    made = Proposal({})
    robot: dict[str, Any] = {"name": name or known or folder.resolve().name}
    made.note("name", robot["name"], "data" if name or known else "the folder's name")
    robot["cameras"] = _cameras(made, data, preset)
    state, action = _dimensions(made, data)
    robot |= {"state": state, "action": action, "control_hz": float(rate)}
    made.note("control_hz", f"{rate:g}")
    for key, used, usual in zip(("state", "action"), keys or (), (STATE_KEY, ACTION_KEY), strict=False):
        if used != (usual,):
            robot |= {f"{key}_key": used[0]} if len(used) == 1 else {f"{key}_keys": list(used)}
            made.note(f"{key}_keys", ", ".join(used), f"there is no column {usual!r}")
    if rule := _gripper(made, data, state, action):
        robot["gripper"] = rule
    robot["normalization"] = _normalization(made, data)
    made.document = {"base": base, "robot": robot}
    guessed = ", ".join(dict.fromkeys(made.guesses))
    robot["notes"] = f"Proposed from {folder.resolve().name}. Guessed, please check: {guessed or 'nothing'}."
    return made


def _keys(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Columns of the state and of the action of a LeRobot set; None for other formats."""
    path = folder / "meta" / "info.json"
    if not path.exists():
        return None
    features = read_json(path, "data set file", DataError, "record the data set again").get("features", {})
    numeric = [
        key
        for key, feature in features.items()
        if isinstance(feature, dict) and str(feature.get("dtype", "")).startswith(("float", "int"))
        and key not in _INDICES and len(feature.get("shape", ())) <= 1
    ]  # fmt: skip
    states = [key for key in numeric if key.startswith(("observation.", "state"))]
    actions = [key for key in numeric if key.startswith(("action", "actions"))]
    chosen = []
    for usual, found in ((STATE_KEY, states), (ACTION_KEY, actions)):
        parts = [key for key in found if key.startswith(f"{usual}.")]
        chosen.append((usual,) if usual in features or not found else tuple(parts or found))
    return chosen[0], chosen[1]


def _cameras(made: Proposal, data: Dataset, preset: LightWAMConfig) -> list[dict[str, Any]]:
    """Rectangles that tile a canvas of about the base's size: the widest view first."""
    names = sorted(data.cameras, key=lambda name: any(word in name for word in ("wrist", "hand", "gripper")))
    side = max(16, preset.cameras.cameras[0].height // 16 * 16)
    count = len(names)
    if count == 3:
        places = [(0, 0, side, 2 * side), (side, 0, side, side), (side, side, side, side)]
        if side % 32 == 0:
            places = [(top // 2, left // 2, height // 2, width // 2) for top, left, height, width in places]
    else:
        columns = 2 if count == 4 else count
        places = [(i // columns * side, i % columns * side, side, side) for i in range(count)]
    told = str(data.about.get("lightwam.images", ""))
    known = next((name for name in FLIPS if name in told), "rotated_180" if "180" in told else None)
    made.note("cameras", ", ".join(names))
    made.note("cameras: places", f"{count} on a canvas", "about the base's size, frames are stretched to squares")
    made.note("cameras: in_data, on_robot", known or "upright", "data" if known else "nothing tells")
    lie = {"in_data": known, "on_robot": known} if known else {}
    return [
        {"name": name, "top": top, "left": left, "height": height, "width": width, **lie}
        for name, (top, left, height, width) in zip(names, places, strict=True)
    ]


def _names(about: Mapping[str, Any], key: str, width: int) -> list[str] | None:
    """Names of a column's numbers, as LeRobot lists them: a list, or a list in a mapping."""
    names = about.get("features", {}).get(key, {}).get("names")
    while isinstance(names, Mapping) and names:
        names = next(iter(names.values()))
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != width or len(set(names)) != width:
        return None
    return [str(name).removesuffix(".pos") for name in names]


def _dimensions(made: Proposal, data: Dataset) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Names, units and deltas of state and action."""
    action_NA = data.action[:, -1]
    widths = data.state.shape[1], action_NA.shape[1]
    states = _names(data.about, STATE_KEY, widths[0])
    actions = _names(data.about, ACTION_KEY, widths[1])
    made.note("state: names", f"{widths[0]}", "data" if states else "the data set names none")
    made.note("action: names", f"{widths[1]}", "data" if actions else "the data set names none")
    states = states or (actions if actions and widths[0] == widths[1] else [f"state_{i}" for i in range(widths[0])])
    actions = actions or (states if widths[0] == widths[1] else [f"action_{i}" for i in range(widths[1])])
    state = [{"name": n, "unit": _unit(n, data.state[:, i], data.state)} for i, n in enumerate(states)]
    action: list[dict[str, Any]] = []
    for i, name in enumerate(actions):
        entry: dict[str, Any] = {"name": name, "unit": _unit(name, action_NA[:, i], action_NA)}
        pair = Pair(name, i, i, False) if widths[0] == widths[1] else None
        if (moved := _delta_of(data, i, pair)) is not None:
            entry = {"name": f"delta_{states[moved]}", "unit": "1", "delta": True}
        action.append(entry)
    if len({entry["name"] for entry in action}) < len(action):
        action = [{**entry, "name": actions[i]} for i, entry in enumerate(action)]
    for title, entries in (("state", state), ("action", action)):
        made.note(f"{title}: units", ", ".join(dict.fromkeys(e["unit"] for e in entries)), "from names and ranges")
    deltas = [entry["name"] for entry in action if entry.get("delta")]
    made.note("action: delta", ", ".join(deltas) or "none", "whether actions go with states or with their changes")
    return state, action


def _unit(name: str, values_N: npt.NDArray[Any], all_ND: npt.NDArray[Any]) -> str:
    largest, span = float(np.abs(values_N).max()), float(np.ptp(values_N))
    low = name.lower()
    if any(word in low for word in _GRIPPER):
        return "%" if largest > 1.5 else "m" if 0 < largest < 0.15 and span < 0.15 else "1"
    if low.startswith("delta"):
        return "1"
    if low in ("x", "y", "z") or (low.endswith(("_x", "_y", "_z", "position")) and "angle" not in low):
        return "m" if largest < 5 else "mm"
    others = float(np.abs(all_ND).max())
    return "rad" if others <= 2 * math.pi * 1.01 else "deg"


def _delta_of(data: Dataset, action: int, pair: Pair | None) -> int | None:
    """Which state an action changes, if it goes with changes more than with states; None for a target."""
    at = slice(LAGS.index(0), LAGS.index(0) + 3)

    def best(state: int, delta: bool) -> float:
        return float(follow(data, Pair("", action, state, delta), np.inf)[0][at].max())

    states = [pair.state] if pair is not None else range(data.state.shape[1])
    changes = {state: best(state, True) for state in states}
    chosen = max(changes, key=lambda state: changes[state])
    target = max(best(state, False) for state in states)
    return chosen if changes[chosen] > 0.6 and changes[chosen] > target else None


def _gripper(
    made: Proposal, data: Dataset, state: list[dict[str, Any]], action: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The rule of the gripper, if there is one whose commands have two ends."""
    values_NA = data.action.reshape(-1, len(action))
    named = [i for i, entry in enumerate(action) if any(word in entry["name"].lower() for word in _GRIPPER)]
    two = [i for i in range(len(action)) if _two_ends(values_NA[:, i]) and not action[i].get("delta")]
    found = named or two[-1:]
    if len(found) != 1:
        why = "no command is named so or has two ends" if not found else f"{len(found)} commands: a rule has one"
        made.note("gripper", "none", why)
        return None
    column, name = found[0], str(action[found[0]]["name"])
    action[column] = {"name": name, "unit": action[column]["unit"]}
    low, high = (_nice(float(end)) for end in np.quantile(values_NA[:, column], (0.01, 0.99)))
    if low == high:
        made.note("gripper", "none", f"{name!r} never moves")
        return None
    made.note("gripper", name, "data" if named else "it has two ends")
    upper_is_open, why = _sense(data, state, action, GripperRule(name, high, low, high, low))
    opened, closed = (high, low) if upper_is_open else (low, high)
    made.note("gripper: data_open, data_closed", f"{opened:g}, {closed:g}", why)
    few = len(np.unique(values_NA[:, column])) <= 2
    made.note("gripper: robot_open, robot_closed", f"{opened:g}, {closed:g}", "as in the data")
    rule = {"dimension": name, "data_open": opened, "data_closed": closed, "robot_open": opened, "robot_closed": closed}
    return {**rule, "two_valued": True} if few else rule


def _two_ends(values_N: npt.NDArray[Any]) -> bool:
    low, high = float(values_N.min()), float(values_N.max())
    near = np.minimum(values_N - low, high - values_N) < 0.15 * (high - low)
    both = min((values_N < (low + high) / 2).mean(), (values_N > (low + high) / 2).mean())
    return high - low > 1e-3 and near.mean() > 0.85 and both > 0.02


def _nice(value: float) -> float:
    """The end that a value near one stands for."""
    return next((end for end in _ENDS if abs(value - end) <= 0.03 * max(1.0, abs(end))), round(value, 4))


def _sense(
    data: Dataset, state: list[dict[str, Any]], action: list[dict[str, Any]], rule: GripperRule
) -> tuple[bool, str]:
    """Whether the larger value opens, and how it is known."""
    names = [Dimension(**entry) for entry in state]
    column = [entry["name"] for entry in action].index(rule.dimension)
    correlation = fingers_follow(data, names, data.action[:, 0, column].astype(np.float64))
    if not math.isnan(correlation):
        return correlation > 0, f"the fingers' opening follows it (correlation {correlation:.2f})"
    middle = (rule.data_open + rule.data_closed) / 2
    first = np.array([data.action[episode.start, 0, column] > middle for episode in data.episodes])
    return bool(first.mean() >= 0.5), "most episodes begin with it: grippers mostly begin open"


def _normalization(made: Proposal, data: Dataset) -> dict[str, str]:
    far = any(finding.kind == "jump" for finding in check_columns(data, None))
    mode = "q01/q99" if far else "min/max"
    made.note("normalization", mode, "some values lie far from all others" if far else "no value lies far from others")
    return {"state": mode, "action": mode}
