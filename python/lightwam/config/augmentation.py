# SPDX-License-Identifier: Apache-2.0
"""How far photometric augmentation goes (`lightwam.data.augment` does it)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lightwam.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far each property varies; 0 leaves it as it is. The default is a mild one."""

    brightness: float = 0.2
    """The factor lies in 1 - this to 1 + this."""
    contrast: float = 0.2
    """Likewise."""
    saturation: float = 0.2
    """Likewise."""
    hue: float = 0.02
    """Turns of the colour circle, at most 0.5, either way."""
    noise: float = 0.01
    """Standard deviation of Gaussian noise; 1 is white."""
    shift: float = 0.03
    """Share of the camera's height and width that it moves by, whole pixels, either way; edges are repeated."""

    def __post_init__(self) -> None:
        limits = {"hue": 0.5, "shift": 0.5}
        for entry in fields(Augmentation):
            value, limit = getattr(self, entry.name), limits.get(entry.name, 1.0)
            if not 0 <= value <= limit:
                raise ConfigError(f"augmentation {entry.name} is {value}: use 0 to {limit:g}")

    @property
    def changes_nothing(self) -> bool:
        """Whether every property is 0."""
        return not any(getattr(self, entry.name) for entry in fields(Augmentation))
