# SPDX-License-Identifier: Apache-2.0
"""How a policy becomes an engine: every option of the export, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightwam.config import LightWAMConfig
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import FloatPrecision
from lightwam.errors import ExportError

StartAt = Literal["images", "latents"]
CrossOutput = Literal["auto", "folded", "projected"]


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export_engine`; docs/reference/export.md tells what they cost and save.

    Number formats:
        precision: what matmuls compute in, 'f32', 'bf16' or 'f16'.
        weight_dtype: 'bf16' stores an f32 engine's weights in half the bytes; the runtime widens them.
        stream_dtype: 'f16' halves the bytes of the backbone's residual stream on a GPU, for bf16 and f16 engines; the
            stream must stay below 65,504.

    Inputs:
        start_at: 'images', or 'latents' for callers that encode images themselves.
        latent_shape: [Z, h, w] when it is not that of the configured cameras.
        context_rows: L when it is not the configured length.

    Folding:
        cross_output: saving 13, value and output projection of every cross-attention key as one vector, always
            ('folded'), never ('projected'), or where it is faster for the longest known instruction ('auto').

    What the engine says of itself:
        name: the policy's name; default the configuration's.
        control_hz: control steps a second; default the robot's.
        provenance: further JSON entries to store.

    The export's own check:
        parity_seeds: seeds of the random inputs on which folded graph and model are compared; empty: not measured.
    """

    precision: FloatPrecision = "f32"
    weight_dtype: DType | None = None
    stream_dtype: DType = "f32"

    start_at: StartAt = "images"
    latent_shape: tuple[int, int, int] | None = None
    context_rows: int | None = None

    cross_output: CrossOutput = "auto"

    name: str | None = None
    control_hz: float | None = None
    provenance: Mapping[str, Any] | None = None

    parity_seeds: tuple[int, ...] = (0, 1, 2)

    def resolved_latent_shape(self, config: LightWAMConfig) -> tuple[int, int, int]:
        return self.latent_shape or (config.vae.z_dim, *config.latent_size)

    def resolved_context_rows(self, config: LightWAMConfig) -> int:
        """Raises `ExportError` below 1."""
        rows = config.text.length if self.context_rows is None else self.context_rows
        if rows < 1:
            raise ExportError(f"context_rows is {rows}: give at least 1, or None for {config.text.length}")
        return rows

    def check(self) -> None:
        """Raise `ExportError` on a value that is unknown or does not fit the precision."""
        exact = self.precision == "f32"
        allowed = {
            "precision": get_args(FloatPrecision),
            "start_at": get_args(StartAt),
            "cross_output": get_args(CrossOutput),
            "weight_dtype": (None, "f32", "bf16") if exact else (None, self.precision),
            "stream_dtype": ("f32",) if exact else ("f32", "f16"),
        }
        for name, formats in allowed.items():
            if getattr(self, name) not in formats:
                raise ExportError(
                    f"{name} is {getattr(self, name)!r}: with precision {self.precision!r} use one of {formats}"
                )
