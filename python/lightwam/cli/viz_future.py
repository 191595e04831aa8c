# SPDX-License-Identifier: Apache-2.0
"""`lightwam viz future`: what a policy imagines beside what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.terminal import table
from lightwam.viz.recordings import Recordings


@dataclass(frozen=True, kw_only=True)
class FutureArgs(Recordings):
    """Draw the futures that a policy imagines beside what happened, as a picture and a video of each episode, with the
    PSNR of each frame."""

    checkpoint: Path
    """Checkpoint folder of the policy."""
    windows: int = 6
    """How many windows of an episode at most, spread over it."""
    sampling_steps: int | None = None
    """Euler steps from noise to a future (default: the configuration's number)."""
    seed: int = 0
    """Seed of the noise."""


def main(arguments: FutureArgs) -> int:
    """Draw and print the PSNR. Raises `LightWAMError`s."""
    from lightwam.viz.future import show_futures

    figures = show_futures(
        arguments, arguments.checkpoint, arguments.windows, arguments.sampling_steps, arguments.seed
    )  # fmt: skip
    rows = [
        (f"episode {number}", what, *(f"{value:.1f}" for value in found[key][1:]))
        for number, found in figures["episodes"].items()
        for what, key in (("imagined", "psnr_db_by_frame"), ("still", "psnr_db_by_frame_standing_still"))
    ]
    header = ("", "", *(f"frame {frame}" for frame in range(1, len(rows[0]) - 1)))
    print(table(header, rows, "PSNR in dB of imagined frames, and of the first frame standing still"))
    print(arguments.out)
    return 0
