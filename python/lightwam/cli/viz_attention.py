# SPDX-License-Identifier: Apache-2.0
"""`lightwam viz attention`: where a policy's poolers look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.terminal import table
from lightwam.viz.recordings import Recordings


@dataclass(frozen=True, kw_only=True)
class AttentionArgs(Recordings):
    """Draw where each learned-query pooler looks in recordings: heat maps over the cameras, as a contact sheet and a
    video of each episode."""

    checkpoint: Path
    """Checkpoint folder of the policy."""
    every: int = 1
    """Use every so many-th row of the recordings."""
    frames: int = 8
    """How many frames the contact sheet has, spread over the episode."""
    top: float | None = None
    """Multiple of an even share that is brightest (default: each pooler's own, at least 4)."""


def main(arguments: AttentionArgs) -> int:
    """Draw and print what each pooler looks at. Raises `LightWAMError`s."""
    from lightwam.viz.attention import show_attention

    figures = show_attention(
        arguments, arguments.checkpoint, arguments.every, arguments.frames, arguments.top
    )  # fmt: skip
    for number, found in figures["episodes"].items():
        rows = [
            (pooler, *(f"{share:.2f}" for share in told["camera_share"].values()), f"{told['spread_tokens']:.1f}")
            for pooler, told in found["poolers"].items()
        ]
        first = next(iter(found["poolers"].values()))
        header = ("pooler", *first["camera_share"], f"of {first['tokens']} tokens")
        print(table(header, rows, f"episode {number}, share of attention: {found['task']}"))
    print(arguments.out)
    return 0
