# SPDX-License-Identifier: Apache-2.0
"""Statistics of states and actions, their file, and the normaliser built from them.

Legend: N rows, H action horizon, D width of the field (state or action). Statistics read tables only: no video is
decoded. Source: docs/reference/light-wam.md, section 6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.config.robot import constant_range
from lightwam.errors import ConfigError, DataError
from lightwam.files import replacing_file

FloatArray = npt.NDArray[np.float32]
STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
_NARROW_RANGE = 1e-4


@dataclass(frozen=True)
class Statistics:
    """Minimum, maximum, mean, standard deviation and 1 % / 99 % quantiles; each array has the same shape."""

    min: FloatArray
    max: FloatArray
    mean: FloatArray
    std: FloatArray
    q01: FloatArray
    q99: FloatArray

    @staticmethod
    def measure(rows: npt.NDArray[np.floating[Any]]) -> Statistics:
        """Statistics over the first axis of `rows` [N, ...]; the deviation is the population's."""
        if rows.shape[0] == 0:
            raise DataError("statistics of 0 rows: record or select at least one episode")
        values = rows.astype(np.float64)
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        measured = (values.min(0), values.max(0), values.mean(0), values.std(0), low, high)
        return Statistics(*(np.asarray(value, np.float32) for value in measured))

    def to_dict(self, prefix: str) -> dict[str, Any]:
        """JSON-ready `{prefix_min: [...], ...}`."""
        return {f"{prefix}_{name}": getattr(self, name).tolist() for name in STATISTICS}

    @staticmethod
    def from_dict(mapping: Mapping[str, Any], prefix: str, where: str) -> Statistics:
        """Inverse of `to_dict`; `where` names the place in errors. Raises `DataError`."""
        missing = [f"{prefix}_{name}" for name in STATISTICS if f"{prefix}_{name}" not in mapping]
        if missing:
            raise DataError(f"{where} lacks {missing}: measure the statistics again")
        try:
            arrays = [np.asarray(mapping[f"{prefix}_{name}"], np.float32) for name in STATISTICS]
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} holds something other than numbers ({error}): measure it again") from error
        if len({array.shape for array in arrays}) != 1 or not all(np.isfinite(array).all() for array in arrays):
            raise DataError(f"{where} holds unequal shapes or infinite numbers: measure the statistics again")
        return Statistics(*arrays)


@dataclass(frozen=True)
class DatasetStatistics:
    """What the normalisers of one policy need: statistics over all rows ('global') and for each step of a window."""

    state: Statistics
    action: Statistics
    stepwise_state: Statistics
    stepwise_action: Statistics
    num_episodes: int
    num_transition: int

    def to_dict(self) -> dict[str, Any]:
        """The statistics file: `state|action` -> `default` -> `{global,stepwise}_{min,max,mean,std,q01,q99}`."""
        fields = {"state": (self.state, self.stepwise_state), "action": (self.action, self.stepwise_action)}
        document: dict[str, Any] = {
            name: {"default": {**overall.to_dict("global"), **stepwise.to_dict("stepwise")}}
            for name, (overall, stepwise) in fields.items()
        }
        return {**document, "num_episodes": self.num_episodes, "num_transition": self.num_transition}

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> DatasetStatistics:
        """Inverse of `to_dict`. Raises `DataError` naming the missing or damaged entry."""
        parts: dict[str, Statistics] = {}
        for name in ("state", "action"):
            section = mapping.get(name)
            default = section.get("default") if isinstance(section, Mapping) else None
            if not isinstance(default, Mapping):
                raise DataError(f"statistics lack '{name}.default': measure the statistics again")
            parts[name] = Statistics.from_dict(default, "global", f"statistics of {name}")
            parts[f"stepwise_{name}"] = Statistics.from_dict(default, "stepwise", f"statistics of {name}")
        counts = {name: mapping.get(name, 0) for name in ("num_episodes", "num_transition")}
        if not all(isinstance(count, int) for count in counts.values()):
            raise DataError(f"statistics count {counts}: give whole numbers, or measure the statistics again")
        return DatasetStatistics(
            parts["state"],
            parts["action"],
            parts["stepwise_state"],
            parts["stepwise_action"],
            **counts,
        )

    def save(self, path: Path) -> None:
        """Write the statistics file; it appears whole."""
        with replacing_file(path) as building:
            building.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> DatasetStatistics:
        """Read a statistics file. Raises `DataError` when it is missing or damaged."""
        return DatasetStatistics.from_dict(read_statistics(path))


def read_statistics(path: Path) -> dict[str, Any]:
    """The JSON object of a statistics file, its entries not yet looked at. Raises `DataError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"statistics file {path} is missing: measure it from the data set first") from error
    except (OSError, ValueError) as error:
        raise DataError(f"statistics file {path} is unreadable ({error}): measure it again") from error
    if not isinstance(document, dict):
        raise DataError(f"statistics file {path} holds a {type(document).__name__}: it must hold a JSON object")
    return document


@dataclass(frozen=True)
class Normalizer:
    """`forward`: clamp(x * scale + offset); `backward`: (y - offset) / scale, without clamping. Arrays are [D]."""

    scale: FloatArray
    offset: FloatArray
    clamp: float = 5.0

    @staticmethod
    def from_statistics(mode: str, statistics: Statistics, clamp: float = 5.0) -> Normalizer:
        """Build from 'min/max', 'q01/q99', 'z-score' or constants such as '-1/1'. Raises `ConfigError`."""
        vectors = {name: getattr(statistics, name) for name in STATISTICS}
        return Normalizer._from_vectors(mode, vectors, statistics.min.shape, clamp)

    @staticmethod
    def from_document(document: Mapping[str, Any], field: str, mode: str, width: int, clamp: float = 5.0) -> Normalizer:
        """Build from a statistics file's content, of which only what `mode` needs must be there.

        Args:
            document: `field` -> `default` -> `global_min`, ...; each a list of `width` numbers.
            field: 'state' or 'action'.
            mode: as for `from_statistics`.
            width: D.
            clamp: limit of the normalised values.

        Raises:
            DataError: a needed entry is missing, no list of `width` finite numbers, or a lower limit above its upper.
            ConfigError: an unknown mode.
        """
        names = statistics_of_mode(mode)
        section = document.get(field)
        default = section.get("default") if isinstance(section, Mapping) else None
        if names and not isinstance(default, Mapping):
            raise DataError(f"statistics lack '{field}.default': measure the statistics again")
        vectors = {name: _vector(default or {}, field, f"global_{name}", width, mode) for name in names}
        _check_order(vectors, field)
        return Normalizer._from_vectors(mode, vectors, (width,), clamp)

    @staticmethod
    def _from_vectors(mode: str, vectors: Mapping[str, FloatArray], shape: tuple[int, ...], clamp: float) -> Normalizer:
        if mode == "z-score":
            scale = 1.0 / (vectors["std"] + np.float32(1e-8))
            return Normalizer(scale.astype(np.float32), (-vectors["mean"] * scale).astype(np.float32), clamp)
        low, high = _range_of_mode(mode, vectors, shape)
        narrow = high - low < _NARROW_RANGE
        scale = np.where(narrow, np.float32(1), np.float32(2) / np.where(narrow, np.float32(1), high - low))
        offset = np.where(narrow, -low, np.float32(-1) - scale * low)
        return Normalizer(scale.astype(np.float32), offset.astype(np.float32), clamp)

    def forward(self, values: npt.NDArray[np.floating[Any]]) -> FloatArray:
        """Robot units [..., D] -> normalised float32, clamped to +-clamp."""
        normalised: FloatArray = values.astype(np.float32) * self.scale + self.offset
        return normalised.clip(-self.clamp, self.clamp)

    def backward(self, values: npt.NDArray[np.floating[Any]]) -> FloatArray:
        """Normalised [..., D] -> robot units, float32."""
        restored: FloatArray = (values.astype(np.float32) - self.offset) / self.scale
        return restored


def statistics_of_mode(mode: str) -> tuple[str, ...]:
    """The statistics that a normalisation mode reads; none for constants such as '-1/1'."""
    return {"min/max": ("min", "max"), "q01/q99": ("q01", "q99"), "z-score": ("mean", "std")}.get(mode, ())


def _vector(default: Mapping[str, Any], field: str, name: str, width: int, mode: str) -> FloatArray:
    """One entry [D] of a statistics file."""
    if name not in default:
        raise DataError(f"statistics of {field} lack {name}, which normalisation {mode!r} needs: measure them again")
    try:
        values = np.asarray(default[name], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"statistics of {field}: {name} holds something other than numbers: measure it again"
        ) from error
    if values.shape != (width,) or not np.isfinite(values).all():
        raise DataError(f"statistics of {field}: {name} is {default[name]}: give {width} finite numbers")
    return values


def _check_order(vectors: Mapping[str, FloatArray], field: str) -> None:
    for low, high in (("min", "max"), ("q01", "q99")):
        if low in vectors and bool((vectors[low] > vectors[high]).any()):
            place = int(np.argmax(vectors[low] > vectors[high]))
            given = f"{vectors[low][place]} above {high} {vectors[high][place]}"
            raise DataError(f"statistics of {field}: {low}[{place}] is {given}: measure the statistics again")
    if "std" in vectors and bool((vectors["std"] < 0).any()):
        raise DataError(f"statistics of {field}: std is {vectors['std'].tolist()}: deviations are at least 0")


def _range_of_mode(
    mode: str, vectors: Mapping[str, FloatArray], shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    if names := statistics_of_mode(mode):
        return vectors[names[0]], vectors[names[1]]
    limits = constant_range(mode)
    if limits is None:
        raise ConfigError(
            f"normalisation mode is {mode!r}: use 'min/max', 'q01/q99', 'z-score' or constants such as '-1/1'"
        )
    full = np.ones(shape, np.float32)
    return full * np.float32(limits[0]), full * np.float32(limits[1])
