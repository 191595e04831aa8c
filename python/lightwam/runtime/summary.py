# SPDX-License-Identifier: Apache-2.0
"""What an engine file holds, read without loading its weights."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lightwam.errors import EngineError
from lightwam.runtime import _engine


@dataclass(frozen=True)
class EngineSummary:
    """An engine file in figures. Sizes in bytes; `ops` counts the ops of `act` by (stage, op)."""

    path: str
    file_bytes: int
    name: str
    precision: str
    policy: dict[str, Any]
    provenance: Any
    arena_bytes: int
    instruction_bytes: int
    ops: dict[tuple[str, str], int]

    def text(self) -> str:
        """A few lines for a terminal."""
        policy = self.policy
        cameras = ", ".join(f"{c['name']} {c['rect'][2]}x{c['rect'][3]}" for c in policy["cameras"]) or "none (latents)"
        lines = [
            f"{self.name}  ({self.path}, {self.file_bytes / 1e6:.1f} MB)",
            f"  precision      {self.precision}",
            f"  cameras        {cameras}",
            f"  state, action  {policy['state_width']}, {policy['action_width']}",
            f"  horizon        {policy['horizon']}, replan after {policy['replan']}",
            f"  instructions   {len(policy['instructions'])} known"
            + (", any other through the text encoder" if policy["text_encoder"] else ""),
            f"  arena          {self.arena_bytes / 1e6:.2f} MB; {self.instruction_bytes / 1e6:.2f} MB per instruction",
        ]
        for stage in dict.fromkeys(stage for stage, _ in self.ops):
            counts = ", ".join(f"{op} {count}" for (at, op), count in self.ops.items() if at == stage)
            lines.append(f"  {stage:<14} {counts}")
        return "\n".join(lines)


def engine_file_name(path: object) -> bytes:
    """The name of an engine file as the system knows it. Raises EngineError when `path` is no path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise EngineError(f"engine path {path!r} is a {type(path).__name__}; expected the name of an engine file")
    name = os.fsencode(path)
    if b"\0" in name:
        raise EngineError(f"engine path {path!r} holds a zero byte; expected the name of an engine file")
    return name


def summarize(path: str | os.PathLike[str]) -> EngineSummary:
    """Verify an engine file as a whole and count what it holds. Raises EngineError."""
    document = json.loads(_engine.verify(engine_file_name(path)))
    act = document["programs"]["act"]
    return EngineSummary(
        path=str(path),
        file_bytes=os.path.getsize(path),
        name=document["name"],
        precision=document["precision"],
        policy=document["policy"],
        provenance=document["provenance"],
        arena_bytes=max(program["arena_bytes"] for program in document["programs"].values()),
        instruction_bytes=document["instruction_bytes"],
        ops=dict(Counter((op["stage"], op["op"]) for op in act["ops"])),
    )
