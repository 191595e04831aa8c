# SPDX-License-Identifier: Apache-2.0
"""The guide to GPUs lists every target with machine code, and every GPU of predictions."""

from __future__ import annotations

from pathlib import Path

from lightwam.kernels.targets import GPUS, TARGETS

GUIDE = (Path(__file__).resolve().parents[3] / "docs/guides/gpu.md").read_text(encoding="utf-8")


def test_the_guide_lists_all_targets() -> None:
    rows = [line for line in GUIDE.splitlines() if line.startswith("| `sm_")]
    assert rows == [
        f"| `{name}` | {target.gpus} | {'yes' if target.fp8 else 'no'} |" for name, target in TARGETS.items()
    ]


def test_the_guide_lists_all_gpus() -> None:
    (line,) = [line for line in GUIDE.splitlines() if line.startswith("lightwam bench --roofline")]
    assert line.split("# ")[1].split(", ") == list(GPUS)
