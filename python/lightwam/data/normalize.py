# SPDX-License-Identifier: Apache-2.0
"""Statistics of states and actions, their file, and the normaliser built from them.

Legend: N rows, H action horizon, D width of the field (state or action). Statistics read tables only: no video is
decoded. Source: docs/reference/light-wam.md, section 6.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.config.robot import constant_range
from lightwam.data.statistics_formats import READABLE, in_our_form
from lightwam.errors import ConfigError, DataError
from lightwam.file_kind import file_kind
from lightwam.files import read_json, short

FloatArray = npt.NDArray[np.float32]
STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
_LIMITS = (("min", "max"), ("q01", "q99"))
_NARROW_RANGE = 1e-4
_logger = logging.getLogger("lightwam.data")


@default_arithmetic
def measure(rows: npt.NDArray[np.floating[Any]], prefix: str) -> dict[str, Any]:
    """Statistics over the first axis of `rows` [N, ...], JSON-ready: `{prefix_min: [...], ...}`, float32.

    Minimum, maximum, mean, standard deviation (the population's), and quantiles of 1 % and 99 %.
    """
    if isinstance(rows, np.ma.MaskedArray):
        raise DataError(f"statistics of {prefix}: the rows are a masked array, give plain numbers")
    if rows.shape[0] == 0:
        raise DataError("statistics of 0 rows: record or select at least one episode")
    values = rows.astype(np.float64)
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    measured = (values.min(0), values.max(0), values.mean(0), values.std(0), low, high)
    return {
        f"{prefix}_{name}": value.astype(np.float32).tolist() for name, value in zip(STATISTICS, measured, strict=True)
    }


def read_statistics(path: Path) -> dict[str, Any]:
    """A statistics file in our form (`lightwam.data.statistics_formats`), its entries not yet looked at.

    The log (`lightwam.data`) says which entries of another project's file were taken. Raises `DataError`.
    """
    if path.suffix == ".jsonl":
        raise DataError(
            f"statistics file {path} holds statistics of single episodes: give statistics of all ({READABLE})"
        )
    if file_kind(path).name == "lerobot":
        raise DataError(f"statistics file {path} is a LeRobot data set: give {path / 'meta' / 'stats.json'}")
    document = read_json(path, "statistics file", DataError, "measure it from the data set again", any_number=True)
    try:
        made, note = in_our_form(document)
    except DataError as error:
        raise DataError(f"statistics file {path}: {error}") from error
    if note:
        _logger.info("statistics file %s: %s", path, note)
    return made


@dataclass(frozen=True)
class Normalizer:
    """`forward`: clamp(x * scale + offset); `backward`: (y - offset) / scale, without clamping. Arrays are [D]."""

    scale: FloatArray
    offset: FloatArray
    clamp: float = 5.0

    @staticmethod
    @default_arithmetic
    def from_statistics(
        document: Mapping[str, Any], field: str, mode: str, width: int, clamp: float = 5.0
    ) -> Normalizer:
        """Build from a statistics file's content, of which only what `mode` needs must be there.

        Args:
            document: `field` -> `default` -> `global_min`, ...; each a list of `width` numbers.
            field: 'state' or 'action'.
            mode: 'min/max', 'q01/q99', 'z-score' or constants such as '-1/1'.
            width: D.
            clamp: limit of the normalised values.

        Raises:
            DataError: a needed entry is missing, no list of `width` finite numbers, a lower limit above its upper, or
                numbers that make a scale of zero or infinity.
            ConfigError: an unknown mode.
        """
        names = statistics_of_mode(mode)
        section = document.get(field)
        default = section.get("default") if isinstance(section, Mapping) else None
        if names and not isinstance(default, Mapping):
            held = ", ".join(list(document)[:8]) or "nothing"
            raise DataError(f"statistics lack '{field}.default' (they hold: {held}): {READABLE}")
        vectors = {name: _vector(default or {}, field, f"global_{name}", width, mode) for name in names}
        _check_order(vectors, field)
        with np.errstate(all="ignore"):  # what overflows is refused below
            if mode == "z-score":
                scale = 1.0 / (vectors["std"] + np.float32(1e-8))
                return _checked(field, scale, -vectors["mean"] * scale, clamp)
            low, high = _range_of_mode(mode, vectors, width)
            narrow = high - low < _NARROW_RANGE
            scale = np.where(narrow, np.float32(1), np.float32(2) / np.where(narrow, np.float32(1), high - low))
            offset = np.where(narrow, -low, np.float32(-1) - scale * low)
            return _checked(field, scale, offset, clamp)

    @default_arithmetic
    def forward(self, values: npt.NDArray[np.floating[Any]]) -> FloatArray:
        """Robot units [..., D] -> normalised float32, clamped to +-clamp."""
        normalised: FloatArray = values.astype(np.float32) * self.scale + self.offset
        return normalised.clip(-self.clamp, self.clamp)

    @default_arithmetic
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
        held = ", ".join(key.removeprefix("global_") for key in default if key.startswith("global_")) or "nothing"
        raise DataError(
            f"statistics of {field} lack {name}, which normalisation {mode!r} needs (they hold {held}): measure them "
            "again, or choose a normalisation of what they hold in the configuration"
        )
    try:
        if isinstance(default[name], np.ma.MaskedArray):
            raise TypeError("a masked array")
        given = np.asarray(default[name])
        if given.dtype.kind not in "iufO":  # O: integers beyond 64 bits
            raise TypeError("texts or truth values")
        with np.errstate(over="ignore"):  # infinite then, and refused below
            values = given.astype(np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"statistics of {field}: {name} holds something other than numbers: measure it again"
        ) from error
    if values.shape != (width,):
        has = f"{len(values)} numbers" if values.ndim == 1 else f"shape {list(values.shape)}"
        raise DataError(f"statistics of {field}: {name} has {has}: give {width} finite numbers, one for each dimension")
    if not np.isfinite(values).all():
        raise DataError(f"statistics of {field}: {name} is {short(default[name])}: give {width} finite numbers")
    return values


def _checked(field: str, scale: npt.NDArray[Any], offset: npt.NDArray[Any], clamp: float) -> Normalizer:
    """The normaliser, if float32 holds it: an engine refuses a scale of zero, and numbers that are not finite."""
    made = Normalizer(scale.astype(np.float32), offset.astype(np.float32), clamp)
    unfit = ~(np.isfinite(made.scale) & np.isfinite(made.offset)) | (made.scale == 0)
    if unfit.any():
        place = int(np.argmax(unfit))
        raise DataError(
            f"statistics of {field}[{place}] make scale {made.scale[place]} and offset {made.offset[place]}: "
            "measure the statistics again"
        )
    return made


def _check_order(vectors: Mapping[str, FloatArray], field: str) -> None:
    for low, high in _LIMITS:
        if low in vectors and bool((vectors[low] > vectors[high]).any()):
            place = int(np.argmax(vectors[low] > vectors[high]))
            given = f"{vectors[low][place]} above {high} {vectors[high][place]}"
            raise DataError(f"statistics of {field}: {low}[{place}] is {given}: measure the statistics again")
    pairs = [(vectors[low], vectors[high]) for low, high in _LIMITS if low in vectors]
    still = all(np.array_equal(low, high) for low, high in pairs) if pairs else not vectors.get("std", np.ones(1)).any()
    if field == "action" and still:
        raise DataError("statistics of action: no dimension varies: measure them on recordings of a moving robot")
    if "std" in vectors and bool((vectors["std"] < 0).any()):
        raise DataError(f"statistics of {field}: std is {vectors['std'].tolist()}: deviations are at least 0")


def _range_of_mode(mode: str, vectors: Mapping[str, FloatArray], width: int) -> tuple[FloatArray, FloatArray]:
    if names := statistics_of_mode(mode):
        return vectors[names[0]], vectors[names[1]]
    limits = constant_range(mode)
    if limits is None:
        raise ConfigError(
            f"normalisation mode is {mode!r}: use 'min/max', 'q01/q99', 'z-score' or constants such as '-1/1'"
        )
    low, high = (np.full(width, limit, np.float32) for limit in limits)
    return low, high


def normalizers(config: LightWAMConfig, document: Mapping[str, Any]) -> tuple[Normalizer, Normalizer]:
    """Those of state and action, by the configuration's modes; `document` and errors as for `from_statistics`."""
    modes = config.robot.normalization
    document, _ = in_our_form(document)
    state = Normalizer.from_statistics(document, "state", modes.state, config.state_dim, modes.clamp)
    return state, Normalizer.from_statistics(document, "action", modes.action, config.action_dim, modes.clamp)


def measured_range(document: Mapping[str, Any], field: str, width: int) -> npt.NDArray[np.float64] | None:
    """Smallest and largest value [2, width] of a field, else its 1 % and 99 % quantiles; None where neither is there.

    `document` and errors as for `from_statistics`.
    """
    section = document.get(field)
    default = section.get("default") if isinstance(section, Mapping) else None
    for names in (("min", "max"), ("q01", "q99")):
        if isinstance(default, Mapping) and all(f"global_{name}" in default for name in names):
            vectors = {name: _vector(default, field, f"global_{name}", width, "range") for name in names}
            _check_order(vectors, field)
            return np.stack([vectors[name] for name in names]).astype(np.float64)
    return None
