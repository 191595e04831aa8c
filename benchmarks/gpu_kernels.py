# SPDX-License-Identifier: Apache-2.0
"""Compiles every kernel of nano, the golden policies and the full-size ones for all targets: gpu-kernels.md.

Configurations need no weights, machine code no GPU. What is compiled is kept, so a second run only makes what
changed. tests/data/gpu-kernels.json keeps the figures and a digest of what was compiled; a test compares it with the
sources, so that no kernel changes without having been compiled for every target.

    python benchmarks/gpu_kernels.py --jobs 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton

from lightwam.config import LightWAMConfig
from lightwam.engine.graph import Graph, Precision
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.gpu.compile import CompiledPlan, compile_plan
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import LaunchPlan
from lightwam.kernels.compiler.cache import CompileCache, user_cache_folder
from lightwam.kernels.compiler.compile import Variant, variant_key
from lightwam.kernels.compiler.tasks import MOST_TACTICS, Compiler, tactics_to_try
from lightwam.kernels.targets import TARGETS, lacking
from lightwam.progress import counting_bar
from lightwam.quantize.layers import float_precision, in_precision

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reports" / "gpu-kernels.md"
RECORD = ROOT / "tests" / "data" / "gpu-kernels.json"
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "f16", "int8", "fp8")
GOLDEN = ("golden_set1", "golden_set3")
CONFIGURATIONS = (
    *(f"{name}-{precision}" for name in (*GOLDEN, "nano") for precision in PRECISIONS),
    *(f"{name}-{precision}" for name in ("libero", "robotwin") for precision in PRECISIONS[1:]),
)  # fmt: skip
MOST_BYTES = 60_000_000  # of machine code in a file for all targets


def configuration_graph(name: str) -> Graph:
    """The graph of a configuration; only golden policies have weights."""
    policy, _, precision = name.partition("-")
    if policy in GOLDEN:
        sys.path.insert(0, str(ROOT / "tests" / "python"))
        from helpers.gpu_graphs import golden_sample

        return golden_sample(policy, precision, "folded").graph
    config = {"nano": LightWAMConfig.nano, "libero": LightWAMConfig.libero, "robotwin": LightWAMConfig.robotwin}
    options = ExportOptions(float_precision(precision))
    graph = build_graph(config[policy](), StateDictWeights({}), options)
    return in_precision(graph, precision)


def targets_of(plan: LaunchPlan) -> list[str]:
    """The targets that have all formats of a plan."""
    without = lacking([planned.task for planned in plan.tasks], TARGETS)
    return [target for target in TARGETS if target not in without]


def digest(plan: LaunchPlan, target: str, most_tactics: int) -> str:
    """Of the variants that are compiled first for a plan's tasks: sources, constants, tactics, target, Triton."""
    keys = {
        variant_key(Variant(planned.task, tactic, target))
        for planned in plan.tasks
        for tactic in tactics_to_try(planned.task, target, most_tactics)
    }
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:16]


def record(compiled: CompiledPlan, target: str, most_tactics: int) -> dict[str, Any]:
    """Figures of a configuration on a target, by kernel."""
    kernels: dict[str, dict[str, int]] = {}
    for row in compiled.results:
        result = row[target]
        default = result.kept[0].code
        entry = kernels.setdefault(
            result.task.kernel,
            {"tasks": 0, "tactics": 0, "dropped": 0, "registers": 0, "shared": 0, "stack": 0, "bytes": 0},
        )
        entry["tasks"] += 1
        entry["tactics"] += len(result.kept)
        entry["dropped"] += len(result.dropped)
        entry["registers"] = max(entry["registers"], default.registers)
        entry["shared"] = max(entry["shared"], default.shared)
        entry["stack"] = max(entry["stack"], default.stack)
        entry["bytes"] += sum(len(tactic.code.cubin) for tactic in result.kept)
    return {
        "digest": digest(compiled.plan, target, most_tactics),
        "image_bytes": len(compiled.images[target]),
        "kernels": dict(sorted(kernels.items())),
    }


def _megabytes(size: float | None) -> str:
    return "none" if size is None else f"{size:.2f}"


def _cell(entry: Mapping[str, int] | None) -> str:
    """A kernel on a target."""
    if entry is None:
        return "none"
    resources = f"{entry['registers']} / {entry['shared']} / {entry['stack']}"
    return f"{resources}; {entry['tactics']} ({entry['dropped']})"


def page(document: Mapping[str, Any]) -> str:
    """docs/reports/gpu-kernels.md."""
    configurations = document["configurations"]
    lines = [
        "# Machine code of the GPU kernels",
        "",
        "Made by `make gpu-kernels` with Triton "
        + document["triton"]
        + ", without a GPU; nothing here was run on one.",
        "Every task of a launch plan is compiled for every target, up to "
        f"{document['tactics']} of the tactics of each product; tactics that spill or need more shared memory than",
        "the target has are dropped. Registers, shared memory and stack (spills): the largest of the default tactics.",
        "sm_87 has no fp8 products.",
        *(f"Not compiled yet: {name}." for name in CONFIGURATIONS if name not in configurations),
        "",
        "## Machine code a file, MB",
        "",
        "| configuration | tasks | " + " | ".join(TARGETS) + " | all |",
        "|---|---" + "|---" * len(TARGETS) + "|---|",
    ]
    for name, targets in configurations.items():
        sizes = [targets[target]["image_bytes"] / 1e6 if target in targets else None for target in TARGETS]
        tasks = sum(entry["tasks"] for entry in next(iter(targets.values()))["kernels"].values())
        lines.append(
            f"| {name} | {tasks} | "
            + " | ".join(_megabytes(size) for size in (*sizes, sum(filter(None, sizes))))
            + " |"
        )
    for name, targets in configurations.items():
        lines += ["", f"## {name}", "", "Registers / shared bytes / stack bytes; tactics kept (dropped).", ""]
        lines += ["| kernel | tasks | " + " | ".join(TARGETS) + " |", "|---|---" + "|---" * len(TARGETS) + "|"]
        for kernel in next(iter(targets.values()))["kernels"]:
            entries = [targets[target]["kernels"][kernel] if target in targets else None for target in TARGETS]
            tasks = next(entry["tasks"] for entry in entries if entry is not None)
            lines.append(f"| {kernel} | {tasks} | " + " | ".join(_cell(entry) for entry in entries) + " |")
    return "\n".join(lines) + "\n"


def previous(most_tactics: int) -> dict[str, Any]:
    """The configurations of the last record, if it is of the same Triton and as many tactics."""
    if not RECORD.is_file():
        return {}
    document = json.loads(RECORD.read_text())
    same = (document["triton"], document["tactics"]) == (triton.__version__, most_tactics)
    configurations: dict[str, Any] = document["configurations"] if same else {}
    return configurations


def replace_text(path: Path, text: str) -> None:
    """Write a temporary file beside it and rename."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="kernels compiled at a time")
    parser.add_argument("--tactics", type=int, default=MOST_TACTICS, help="tactics of each product")
    parser.add_argument("--cache", type=Path, default=user_cache_folder(), help="folder that keeps compiled kernels")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=CONFIGURATIONS)
    arguments = parser.parse_args(words)
    compiler = Compiler(CompileCache(arguments.cache), arguments.jobs)
    done = previous(arguments.tactics)
    for name in arguments.configurations:
        with counting_bar(name, True) as on_progress:
            plan = lower(configuration_graph(name))
            compiled = compile_plan(plan, targets_of(plan), compiler, arguments.tactics, on_progress)
        done[name] = {target: record(compiled, target, arguments.tactics) for target in targets_of(plan)}
        size = sum(len(image) for image in compiled.images.values())
        print(f"{name}: {len(plan.tasks)} tasks, {size / 1e6:.2f} MB", flush=True)
        for row in compiled.results:
            for target, result in row.items():
                for tactic in (tactic for tactic in result.kept if tactic.note):
                    print(f"  {target} {result.task.kernel}: {tactic.note}", flush=True)
        ordered = {name: done[name] for name in CONFIGURATIONS if name in done}
        document = {"triton": triton.__version__, "tactics": arguments.tactics, "configurations": ordered}
        replace_text(RECORD, json.dumps(document, indent=1) + "\n")
        replace_text(PAGE, page(document))
    print(f"wrote {PAGE.relative_to(ROOT)} and {RECORD.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
