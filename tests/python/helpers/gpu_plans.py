# SPDX-License-Identifier: Apache-2.0
"""A launch plan for the small engine, written by hand: five toy kernels with the mere shell of a cubin each.

What they compute has nothing to do with the engine's graph; it is what tests of the executor can compute themselves.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from helpers.engine_files import (
    ACTION_WIDTH,
    CONTEXT_ROWS,
    HORIZON,
    STATE_WIDTH,
    TEXT_WIDTH,
    WIDTH,
    Engine,
    small_engine,
    write_engine,
)

TARGETS = {"sm_87": (87, 7), "sm_110": (110, 8)}  # architecture, version of the cubin's binary interface
CAMERAS = ("agentview", "wrist")
#: kernel -> arguments (name, mode, bytes; None: a frame)
Kernels = dict[str, list[tuple[str, str, int | None]]]
KERNELS: Kernels = {
    "encode": [("context", "r", CONTEXT_ROWS * TEXT_WIDTH * 4), ("text_rows", "r", 4), ("keys", "w", 192)],
    "look": [("frame_0", "r", None), ("frame_1", "r", None), ("frame_sizes", "r", 16), ("y", "w", WIDTH * 4)],
    "mix": [
        ("keys", "r", CONTEXT_ROWS * WIDTH * 4),
        ("x", "r", WIDTH * 4),
        ("weight", "r", WIDTH * STATE_WIDTH * 4),
        ("bias", "r", WIDTH * 4),
        ("state", "r", STATE_WIDTH * 4),
        ("y", "w", WIDTH * 4),
    ],
    "double": [("x", "r", WIDTH * 4), ("y", "w", WIDTH * 4)],
    "act": [("x", "r", WIDTH * 4), ("y", "w", HORIZON * ACTION_WIDTH * 4)],
}
THREADS = 64
#: How many tactics a kernel has, where not one. They differ in the name of their entry.
TACTICS = {"mix": 2, "double": 3}


def attribute(form: int, kind: int, value: int = 0, payload: bytes = b"") -> bytes:
    """An entry of .nv.info: a value of 16 bits in place, or (form 4) a payload of that many bytes."""
    return struct.pack("<BBH", form, kind, len(payload) if form == 4 else value) + payload


def cubin(entry: str, parameters: int, arch: int, abi: int, threads: int = THREADS) -> bytes:
    """An ELF file as the GPU's assembler writes it, with one entry whose code is 128 bytes of 0x80."""
    info = attribute(1, 0x35) + attribute(3, 0x19, 8 * parameters)
    for i in reversed(range(parameters)):
        info += attribute(4, 0x17, payload=struct.pack("<IHHI", 0, i, 8 * i, (8 << 18) | 0x1F000 | (4 << 8)))
    info += attribute(4, 0x10, payload=struct.pack("<III", threads, 1, 1))
    parts = [
        (b"", b""),
        (b".shstrtab", b""),
        (f".nv.info.{entry}".encode(), info),
        (f".text.{entry}".encode(), b"\x80" * 128),
    ]
    names = b"".join(name + b"\0" for name, _ in parts)
    parts[1] = (parts[1][0], names)
    body, sections, at = b"", b"", 0
    for i, (name, data) in enumerate(parts):
        kind = (0, 3, 0x70000000, 1)[i]
        sections += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, 64 + len(body), len(data), 0, 0, 4, 0)
        at += len(name) + 1
        body += data + b"\0" * (-len(data) % 16)
    flags = arch | arch << 16 if abi == 7 else arch << 8 | 2
    ident = b"\x7fELF" + bytes([2, 1, 1, 51 if abi == 7 else 65, abi]) + b"\0" * 7
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 64 + len(body), flags, 64, 56, 0, 64, len(parts), 1)
    return header + body + sections


def entry_name(kernel: str, tactic: int) -> str:
    """Of the machine code of a tactic; what is before "_kernel" says what it computes."""
    return f"{kernel}_kernel_{tactic}" if tactic else f"{kernel}_kernel"


def tasks_and_images(kernels: Kernels) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """A task for each kernel, and the machine code of all for each target."""
    images = dict.fromkeys(TARGETS, b"")
    tasks: list[dict[str, Any]] = []
    for kernel, arguments in kernels.items():
        tactics: dict[str, list[dict[str, Any]]] = {}
        for target, (arch, abi) in TARGETS.items():
            sizes = {"grid": [2, 1, 1], "threads": THREADS, "shared": 50_000 if kernel == "mix" else 0, "registers": 32}
            tactics[target] = []
            for tactic in range(TACTICS.get(kernel, 1)):
                entry = entry_name(kernel, tactic)
                code = cubin(entry, len(arguments) + 2, arch, abi)
                place = {"entry": entry, "offset": len(images[target]), "bytes": len(code)}
                tactics[target].append(place | sizes | {"note": f"way {tactic}"})
                images[target] += code
        entries = [{"name": name, "mode": mode, "bytes": size} for name, mode, size in arguments]
        numbers = {"flops": 2 * WIDTH, "product_type": "none"}
        tasks.append({"kernel": kernel, "label": kernel, "arguments": entries, **numbers, "tactics": tactics})
    return tasks, images


def buffer(name: str, space: str, size: int | None, offset: int = 0) -> dict[str, Any]:
    return {"name": name, "space": space, "offset": offset, "bytes": size}


def plan_and_images() -> tuple[dict[str, Any], dict[str, bytes]]:
    tasks, images = tasks_and_images(KERNELS)

    def launch(kernel: str, stage: str, *arguments: list[Any]) -> dict[str, Any]:
        return {"name": kernel, "stage": stage, "task": list(KERNELS).index(kernel), "arguments": list(arguments)}

    text_buffers = [
        buffer("context", "input", CONTEXT_ROWS * TEXT_WIDTH * 4),
        buffer("text_rows", "input", 4),
        buffer("keys", "instruction", 192, 64),
    ]
    act_buffers = [
        *(buffer(f"frames.{camera}", "input", None) for camera in CAMERAS),
        buffer("frame_sizes", "input", 16),
        buffer("state", "input", STATE_WIDTH * 4),
        buffer("keys", "instruction", 192, 64),
        buffer("seen", "arena", WIDTH * 4),
        buffer("mixed", "arena", WIDTH * 4, 256),
        buffer("doubled", "arena", WIDTH * 4),  # over "seen", which is read no more
        buffer("actions", "output", HORIZON * ACTION_WIDTH * 4),
    ]
    b = {entry["name"]: ["b", i, 0] for i, entry in enumerate(act_buffers)}
    frames = [b[f"frames.{camera}"] for camera in CAMERAS]
    act = [
        launch("look", "preprocess", *frames, b["frame_sizes"], b["seen"]),
        launch("mix", "backbone", b["keys"], b["seen"], ["w", 0], ["w", 160], b["state"], b["mixed"]),
        launch("double", "expert", b["mixed"], b["doubled"]),
        launch("act", "postprocess", b["doubled"], b["actions"]),
    ]
    text = [launch("encode", "text", ["b", 0, 0], ["b", 1, 0], ["b", 2, 0])]
    programs = {
        "set_instruction": {"arena_bytes": 0, "buffers": text_buffers, "launches": text},
        "act": {"arena_bytes": 512, "buffers": act_buffers, "launches": act},
    }
    return plan_of(tasks, programs), images


def plan_of(tasks: list[dict[str, Any]], programs: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan_version": 1,
        "weights_bytes": 192,
        "weights": [{"tensor": "state.weight", "offset": 0}, {"tensor": "state.bias", "offset": 160}],
        "images": {target: f"gpu.{target}" for target in TARGETS},
        "tasks": tasks,
        "programs": programs,
    }


def small_gpu_engine() -> Engine:
    """The small engine with the plan above and its machine code."""
    return with_plan(*plan_and_images())


def with_plan(plan: dict[str, Any], images: dict[str, bytes]) -> Engine:
    """The small engine with a plan and its machine code."""
    engine = small_engine()
    engine.document["gpu"] = plan
    for target, image in images.items():
        engine.tensors[f"gpu.{target}"] = np.frombuffer(image, dtype=np.int8)
    return engine


PROJECT = [
    ("x", "r", STATE_WIDTH * 4),
    ("weight", "r", WIDTH * STATE_WIDTH * 4),
    ("bias", "r", WIDTH * 4),
    ("residual", "r", WIDTH * 4),
    ("y", "w", WIDTH * 4),
]


def small_linear_engine() -> Engine:
    """The same with a task "project", a linear layer that a library may compute, in the place of "mix"."""
    engine = small_gpu_engine()
    plan = engine.document["gpu"]
    task = {"kernel": "project", "label": "project", "flops": 2 * WIDTH * STATE_WIDTH, "product_type": "f32"}
    task["arguments"] = [{"name": name, "mode": mode, "bytes": size} for name, mode, size in PROJECT]
    sizes = {"rows": 1, "outputs": WIDTH, "inputs": STATE_WIDTH}
    task["linear"] = {**sizes, "x": "f32", "y": "f32", "activation": "none"}
    task["tactics"] = {}
    for target, (arch, abi) in TARGETS.items():
        image = engine.tensors[f"gpu.{target}"].tobytes()
        code = cubin("project_kernel", len(PROJECT) + 2, arch, abi)
        place = {"entry": "project_kernel", "offset": len(image), "bytes": len(code), "grid": [2, 1, 1]}
        task["tactics"][target] = [place | {"threads": THREADS, "shared": 0, "registers": 32, "note": "way 0"}]
        engine.tensors[f"gpu.{target}"] = np.frombuffer(image + code, dtype=np.int8)
    plan["tasks"].append(task)
    launch = plan["programs"]["act"]["launches"][1]
    _, seen, weight, bias, state, mixed = launch["arguments"]
    launch |= {"name": "project", "task": len(plan["tasks"]) - 1, "arguments": [state, weight, bias, seen, mixed]}
    return engine


if __name__ == "__main__":  # writes the files that the C++ tests read
    write_engine(Path(sys.argv[1]) / "small_gpu.lwam", small_gpu_engine())
    write_engine(Path(sys.argv[1]) / "small_linear.lwam", small_linear_engine())
