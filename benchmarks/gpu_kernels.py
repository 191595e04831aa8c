# SPDX-License-Identifier: Apache-2.0
"""Compiles every kernel of nano, the golden policies and the full-size ones for all targets, and records it.

Configurations need no weights, machine code no GPU. What is compiled is kept, so a second run only makes what
changed. tests/data/gpu-kernels.json keeps a digest and a few figures of each configuration and target; a test compares
it with the sources, so that no kernel changes without having been compiled for every target.
docs/reports/gpu-kernels.md shows the sizes.

    python benchmarks/gpu_kernels.py --jobs 2
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton

from lightwam.config import LightWAMConfig
from lightwam.engine.graph import Graph, Precision
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.files import replacing_file
from lightwam.gpu.compile import CompiledPlan, compile_plan
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import LaunchPlan
from lightwam.kernels.compiler.cache import CompileCache, user_cache_folder
from lightwam.kernels.compiler.tasks import Compiler, tactics_to_try
from lightwam.kernels.compiler.variant import Variant, variant_key
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
    """A configuration on a target. Registers, shared bytes and stack (spills): the most of any default tactic.

    digest: of the variants' keys; code: of the machine code, which stays the same if sources are only reworded.
    """
    results = [row[target] for row in compiled.results]
    defaults = [result.kept[0].code for result in results]
    machine_code = compiled.machine_code[target]
    return {
        "digest": digest(compiled.plan, target, most_tactics),
        "code": hashlib.sha256(machine_code).hexdigest()[:16],
        "bytes": len(machine_code),
        "tasks": len(results),
        "tactics": sum(len(result.kept) for result in results),
        "dropped": sum(len(result.dropped) for result in results),
        "registers": max(code.registers for code in defaults),
        "shared": max(code.shared for code in defaults),
        "stack": max(code.stack for code in defaults),
    }


def text(document: Mapping[str, Any]) -> str:
    """The record as JSON, a line for each configuration and target."""
    configurations = []
    for name, targets in document["configurations"].items():
        lines = ",\n".join(f"   {json.dumps(target)}: {json.dumps(entry)}" for target, entry in targets.items())
        configurations.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}")
    head = [f" {json.dumps(key)}: {json.dumps(document[key])}," for key in ("made", "triton", "tactics")]
    return "\n".join(["{", *head, ' "configurations": {', ",\n".join(configurations), " }", "}"]) + "\n"


def page(document: Mapping[str, Any]) -> str:
    """docs/reports/gpu-kernels.md."""
    configurations = document["configurations"]
    entries = [(target, entry) for targets in configurations.values() for target, entry in targets.items()]
    most = {name: max(entry[name] for _, entry in entries) for name in ("registers", "shared", "stack")}
    spilling = "No default tactic spills." if most["stack"] == 0 else f"A tactic spills {most['stack']} bytes."
    without = [name for name, target in TARGETS.items() if not target.fp8]
    tactics = "tactic that fits" if document["tactics"] == 1 else f"{document['tactics']} tactics that fit"
    words = (
        f"Made by `make gpu-kernels` on {document['made']} with Triton {document['triton']}, without a GPU; nothing "
        f"here was run on one. Every task of a launch plan was compiled for every target, each matmul "
        f"with its first {tactics}. Tactics that spill, or need more shared memory than the "
        f"target has, are dropped ({sum(entry['dropped'] for _, entry in entries)} of "
        f"{sum(entry['tactics'] + entry['dropped'] for _, entry in entries)}). {spilling} The most of a default "
        f"tactic: {most['registers']} registers, {most['shared']} bytes of shared memory. "
        f"`tests/data/gpu-kernels.json` has these figures for each configuration and target. Without fp8 matmuls: "
        f"{', '.join(without)}."
    )
    lines = [
        "# Machine code of the GPU kernels",
        "",
        textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False),
        "",
        "Machine code in an engine file, MB:",
        "",
        "| configuration | tasks | " + " | ".join(TARGETS) + " | all |",
        "|---|---" + "|---" * len(TARGETS) + "|---|",
    ]
    for name, targets in configurations.items():
        sizes = [targets[target]["bytes"] / 1e6 if target in targets else None for target in TARGETS]
        cells = ["none" if size is None else f"{size:.2f}" for size in (*sizes, sum(filter(None, sizes)))]
        lines.append(f"| {name} | {next(iter(targets.values()))['tasks']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def previous(most_tactics: int) -> dict[str, Any]:
    """The configurations of the last record, if it is of the same Triton and as many tactics."""
    if not RECORD.is_file():
        return {}
    document = json.loads(RECORD.read_text())
    same = (document["triton"], document["tactics"]) == (triton.__version__, most_tactics)
    configurations: dict[str, Any] = document["configurations"] if same else {}
    return configurations


def write(path: Path, contents: str) -> None:
    with replacing_file(path) as aside:
        aside.write_text(contents)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="kernels compiled at a time")
    parser.add_argument("--tactics", type=int, default=1, help="tactics of each matmul (default: 1)")
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
        size = sum(map(len, compiled.machine_code.values()))
        print(f"{name}: {len(plan.tasks)} tasks, {size / 1e6:.2f} MB", flush=True)
        for row in compiled.results:
            for target, result in row.items():
                for tactic in (tactic for tactic in result.kept if tactic.note):
                    print(f"  {target} {result.task.kernel}: {tactic.note}", flush=True)
        ordered = {name: done[name] for name in CONFIGURATIONS if name in done}
        document = {
            "made": datetime.date.today().isoformat(), "triton": triton.__version__, "tactics": arguments.tactics,
            "configurations": ordered,
        }  # fmt: skip
        write(RECORD, text(document))
        write(PAGE, page(document))
    print(f"wrote {PAGE.relative_to(ROOT)} and {RECORD.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
