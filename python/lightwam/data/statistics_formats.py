# SPDX-License-Identifier: Apache-2.0
"""Statistics files of other projects -> the form of ours (docs/reference/checkpoints.md, "Statistics").

LeRobot's `meta/stats.json` (also that of `lightwam record`), openpi's `norm_stats.json`, and files that hold one entry
for each data set. Ours passes unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightwam.errors import DataError

READABLE = "ours, LeRobot's meta/stats.json and openpi's norm_stats.json are read"
#: Names of a field, the likeliest first.
_FIELDS = {
    "state": ("state", "observation.state", "observation/state", "proprio", "observation.proprio", "qpos"),
    "action": ("action", "actions"),
}
_STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
_WRAPPERS = ("norm_stats", "stats", "statistics")
_DEPTH = 4


def in_our_form(document: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A statistics document in our form, and a line that says what was taken from where (empty for ours).

    Raises:
        DataError: the file holds several data sets, or no numbers.
    """
    if any(isinstance(document.get(field), Mapping) and "default" in document[field] for field in _FIELDS):
        return dict(document), ""
    path: list[str] = []
    inner = document
    for _ in range(_DEPTH):
        if any(_is_section(inner.get(key)) for keys in _FIELDS.values() for key in keys):
            break
        name = _only_entry(inner)
        if name is None:  # constants need no statistics: whoever needs some names what the file holds
            return dict(document), ""
        path.append(name)
        inner = inner[name]
    _refuse_parts(inner)
    made: dict[str, Any] = {}
    told: list[str] = []
    for field, keys in _FIELDS.items():
        found = [key for key in keys if _is_section(inner.get(key))]
        if found:
            others = found[1:] + [key for key in inner if key not in keys and key.startswith(found[0] + ".")]
            made[field] = {"default": _section(field, inner[found[0]])}
            also = f" (not from {', '.join(map(repr, others))})" if others else ""
            told.append(f"{field} from {'.'.join([*path, found[0]])!r}{also}")
    return made, ", ".join(told)


def _refuse_parts(document: Mapping[str, Any]) -> None:
    for field, keys in _FIELDS.items():
        parts = [name for name in document if name.startswith(tuple(f"{key}." for key in keys))]
        if parts and not any(_is_section(document.get(key)) for key in keys):
            raise DataError(f"statistics hold the {field} in parts ({', '.join(parts)}): join them as {field!r}")


def _only_entry(document: Mapping[str, Any]) -> str | None:
    """The entry that the fields lie in; None where there is none. Raises `DataError` where there are several."""
    holds = [key for key, value in document.items() if isinstance(value, Mapping) and _holds_fields(value)]
    known = [key for key in holds if key in _WRAPPERS]
    if len(known or holds) > 1:
        raise DataError(f"statistics are of several data sets ({', '.join(holds)}): keep the entry of one in the file")
    return next(iter(known or holds), None)


def _holds_fields(value: Mapping[str, Any], depth: int = _DEPTH) -> bool:
    if any(_is_section(value.get(key)) for keys in _FIELDS.values() for key in keys):
        return True
    return depth > 0 and any(isinstance(part, Mapping) and _holds_fields(part, depth - 1) for part in value.values())


def _is_section(value: object) -> bool:
    """A mapping with at least one statistic, under its own name or ours."""
    return isinstance(value, Mapping) and any(name in value or f"global_{name}" in value for name in _STATISTICS)


def _section(field: str, section: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: section.get(name, section.get(f"global_{name}")) for name in _STATISTICS}
    given = {name: value for name, value in values.items() if value is not None}  # openpi writes null for no quantile
    if all(_is_table(value) for value in given.values()):
        given = _over_steps(field, given)
    return {f"global_{name}": value for name, value in given.items()}


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) and row for row in value)


def _over_steps(field: str, given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Statistics [S, D] of each control step in a row -> those of all steps, [D]. Quantiles cannot be joined."""
    try:
        steps = {name: np.asarray(value, np.float64) for name, value in given.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"statistics of {field} hold something other than numbers: measure them again") from error
    joined: dict[str, Any] = {}
    for name, value in steps.items():
        if name == "min":
            joined[name] = value.min(0)
        elif name == "max":
            joined[name] = value.max(0)
        elif name == "mean":
            joined[name] = value.mean(0)
        elif name == "std" and "mean" in steps and steps["mean"].shape == value.shape:
            joined[name] = np.sqrt((value**2 + (steps["mean"] - steps["mean"].mean(0)) ** 2).mean(0))
        elif len(value) == 1:
            joined[name] = value[0]
    return {name: value.tolist() for name, value in joined.items()}
