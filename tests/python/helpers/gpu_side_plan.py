# SPDX-License-Identifier: Apache-2.0
"""A launch plan for the small engine with a side branch in both programs, written by hand (compare gpu_plans.py).

set_instruction: encode | encode, then merge. act: drive, double | look, mix, then add, double, act.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from helpers.engine_files import (
    ACTION_WIDTH,
    CONTEXT_ROWS,
    HORIZON,
    STATE_WIDTH,
    TEXT_WIDTH,
    WIDTH,
    Engine,
    write_engine,
)
from helpers.gpu_plans import CAMERAS, KERNELS, Kernels, buffer, plan_of, tasks_and_images, with_plan

ROW, KEYS = WIDTH * 4, CONTEXT_ROWS * WIDTH * 4
SIDE_KERNELS: Kernels = KERNELS | {
    "drive": [("state", "r", STATE_WIDTH * 4), ("y", "w", ROW)],
    "add": [("a", "r", ROW), ("b", "r", ROW), ("y", "w", ROW)],
    "merge": [("a", "r", KEYS), ("b", "r", KEYS), ("y", "w", KEYS)],
}


def launches(buffers: list[dict[str, Any]], steps: list[tuple[str, str, list[Any]]]) -> list[dict[str, Any]]:
    """Kernel, stage, and its arguments: names of buffers, or offsets in the weights."""
    index = {entry["name"]: position for position, entry in enumerate(buffers)}
    return [
        {
            "name": kernel,
            "stage": stage,
            "task": list(SIDE_KERNELS).index(kernel),
            "arguments": [["w", place] if isinstance(place, int) else ["b", index[place], 0] for place in places],
        }
        for kernel, stage, places in steps
    ]


def text_program() -> dict[str, Any]:
    buffers = [
        buffer("context", "input", CONTEXT_ROWS * TEXT_WIDTH * 4),
        buffer("text_rows", "input", 4),
        buffer("first", "arena", KEYS),
        buffer("second", "arena", KEYS, 256),
        buffer("keys", "instruction", KEYS, 64),
    ]
    steps: list[tuple[str, str, list[Any]]] = [
        ("encode", "text", ["context", "text_rows", "first"]),
        ("encode", "text", ["context", "text_rows", "second"]),
        ("merge", "text", ["first", "second", "keys"]),
    ]
    side = {"launches": 1, "join": 2}
    return {"arena_bytes": 512, "buffers": buffers, "launches": launches(buffers, steps), "side": side}


def act_program() -> dict[str, Any]:
    frames = [f"frames.{camera}" for camera in CAMERAS]
    buffers = [
        *(buffer(name, "input", None) for name in frames),
        buffer("frame_sizes", "input", 16),
        buffer("state", "input", STATE_WIDTH * 4),
        buffer("keys", "instruction", KEYS, 64),
        buffer("driven", "arena", ROW),
        buffer("steady", "arena", ROW, 256),
        buffer("seen", "arena", ROW, 512),
        buffer("mixed", "arena", ROW, 768),
        buffer("summed", "arena", ROW, 512),  # over "seen", which is read no more
        buffer("doubled", "arena", ROW),  # over "driven", of the branch that is joined
        buffer("actions", "output", HORIZON * ACTION_WIDTH * 4),
    ]
    steps: list[tuple[str, str, list[Any]]] = [
        ("drive", "backbone", ["state", "driven"]),
        ("double", "backbone", ["driven", "steady"]),
        ("look", "preprocess", [*frames, "frame_sizes", "seen"]),
        ("mix", "backbone", ["keys", "seen", 0, 160, "state", "mixed"]),
        ("add", "backbone", ["mixed", "steady", "summed"]),
        ("double", "expert", ["summed", "doubled"]),
        ("act", "postprocess", ["doubled", "actions"]),
    ]
    side = {"launches": 2, "join": 4}
    return {"arena_bytes": 1024, "buffers": buffers, "launches": launches(buffers, steps), "side": side}


def side_gpu_engine() -> Engine:
    """The small engine with this plan and its machine code."""
    tasks, images = tasks_and_images(SIDE_KERNELS)
    return with_plan(plan_of(tasks, {"set_instruction": text_program(), "act": act_program()}), images)


if __name__ == "__main__":  # writes the file that the C++ tests read
    write_engine(Path(sys.argv[1]) / "small_side.lwam", side_gpu_engine())
