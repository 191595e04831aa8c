# SPDX-License-Identifier: Apache-2.0
"""Engine files with a launch plan and machine code: written, read by both readers, written again without.

Machine code is made up where only its place matters; one golden policy is compiled in full for one target.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.gpu_graphs import small_sample
from helpers.standin import kernels_of
from lightwam.cli import main
from lightwam.engine.file import check_checksums, read_engine, read_gpu_document, write_engine
from lightwam.engine.graph import Graph, graph_to_json
from lightwam.errors import EngineError, ExportError
from lightwam.gpu.compile import CODE_ALIGNMENT, CompiledPlan, compile_plan, gpu_part
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import plan_to_json
from lightwam.kernels.compiler.cache import CompileCache
from lightwam.kernels.compiler.tasks import CompiledTactic, CompiledTask, CompileError, Compiler, candidates
from lightwam.kernels.compiler.variant import Code, Variant, variant_key
from lightwam.kernels.task import Task
from lightwam.runtime import Policy

TARGETS = ("sm_87", "sm_110")


class MadeUpCompiler(Compiler):
    """Every tactic compiles to a few bytes that tell its key."""

    def compile(
        self,
        tasks: Sequence[Task],
        targets: Sequence[str],
        most_tactics: int = 3,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[dict[str, CompiledTask]]:
        return [{target: self._made_up(task, target, most_tactics) for target in targets} for task in tasks]

    def _made_up(self, task: Task, target: str, most_tactics: int) -> CompiledTask:
        result = CompiledTask(task, target)
        for tactic in candidates(task, target)[:most_tactics]:
            key = variant_key(Variant(task, tactic, target))
            code = Code(f"{target} {key}".encode(), "kernel", 32 * tactic.num_warps, 48, 40, 0)
            result.kept.append(CompiledTactic(tactic, key, code))
        result.kept[0] = CompiledTactic(
            result.kept[0].tactic, result.kept[0].key, result.kept[0].code, "spills 8 bytes"
        )
        return result


def made_up(graph: Graph) -> CompiledPlan:
    return compile_plan(lower(graph), TARGETS, MadeUpCompiler(None, 1))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_file_with_machine_code_is_read_by_both_readers(tmp_path: Path, precision: Any) -> None:
    graph = small_sample(precision).graph
    compiled = made_up(graph)
    heard: list[int] = []
    path = tmp_path / "gpu.lwam"
    size = write_engine(graph, path, heard.append, gpu_part(compiled, graph))
    assert size == path.stat().st_size and sum(heard) < size
    check_checksums(path)
    document = read_gpu_document(path)
    assert document == json.loads(json.dumps(plan_to_json(compiled.plan)))
    for task, row in zip(document["tasks"], compiled.results, strict=True):
        for target, result in row.items():
            code = compiled.machine_code[target]
            entries = task["tactics"][target]
            assert len(entries) == len(result.kept) and "spills 8 bytes" in entries[0]["note"]
            for entry, tactic in zip(entries, result.kept, strict=True):
                assert entry["offset"] % CODE_ALIGNMENT == 0
                assert code[entry["offset"] : entry["offset"] + entry["bytes"]] == tactic.code.cubin
    Policy(path, device="cpu")  # verifies the plan


def test_the_graph_read_from_such_a_file_is_the_graph_alone(tmp_path: Path) -> None:
    graph = small_sample("int8").graph
    plain, with_code = tmp_path / "plain.lwam", tmp_path / "gpu.lwam"
    write_engine(graph, plain)
    compiled = made_up(graph)
    assert compiled.plan.derived  # sums of the 8-bit weights' rows: the file's, not the graph's
    write_engine(graph, with_code, gpu=gpu_part(compiled, graph))
    back = read_engine(with_code)
    assert graph_to_json(back) == graph_to_json(read_engine(plain)) and back.constants.keys() == graph.constants.keys()
    assert read_gpu_document(plain) is None
    again = [tmp_path / "a.lwam", tmp_path / "b.lwam"]
    write_engine(back, again[0])
    write_engine(read_engine(plain), again[1])
    assert again[0].read_bytes() == again[1].read_bytes()
    write_engine(back, with_code, gpu=gpu_part(made_up(back), back))  # over the file that it is read from
    np.testing.assert_equal(
        {name: constant.array() for name, constant in read_engine(with_code).constants.items()},
        {name: constant.array() for name, constant in graph.constants.items()},
    )


def test_inspect_names_the_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = small_sample("int8").graph
    write_engine(graph, tmp_path / "gpu.lwam", gpu=gpu_part(made_up(graph), graph))
    assert main(["inspect", str(tmp_path / "gpu.lwam")]) == 0
    assert f"machine code   {', '.join(TARGETS)}\n" in capsys.readouterr().out


def test_code_shared_by_tasks_is_stored_once() -> None:
    compiled = made_up(small_sample("bf16").graph)
    for target, code in compiled.machine_code.items():
        keys = {tactic.key for row in compiled.results for tactic in row[target].kept}
        assert len(code) == len(keys) * (-(-len(f"{target} {'0' * 64}") // CODE_ALIGNMENT) * CODE_ALIGNMENT)


def test_names_of_the_launch_plan_are_its_own() -> None:
    graph = small_sample("bf16").graph
    compiled = made_up(graph)
    name = next(iter(graph.constants))
    names = {**compiled.plan.machine_code, "sm_87": name}
    taken = replace(compiled, plan=replace(compiled.plan, machine_code=names))
    with pytest.raises(ExportError, match="has a name of the launch plan"):
        gpu_part(taken, graph)


def test_damaged_gpu_parts_are_one_line(tmp_path: Path) -> None:
    graph = small_sample("bf16").graph
    part = gpu_part(made_up(graph), graph)
    broken = {key: value for key, value in part.document.items() if key != "images"}
    write_engine(graph, tmp_path / "broken.lwam", gpu=type(part)(broken, part.tensors))
    with pytest.raises(EngineError, match="launch plan lacks or mistypes 'images': run lightwam compile again"):
        read_engine(tmp_path / "broken.lwam")


def test_errors_of_the_compiler_are_export_errors() -> None:
    class Failing(Compiler):
        def compile(self, *_: Any, **__: Any) -> Any:
            raise CompileError("kernel matmul cannot be compiled for sm_87: spoon")

    plan = small_sample("bf16").plan
    with pytest.raises(ExportError, match="sm_87: spoon: leave this target out"):
        compile_plan(plan, TARGETS, Failing(None, 1))
    with pytest.raises(ExportError, match="target 'sm_75' is unknown: use sm_87"):
        compile_plan(plan, ["sm_75"], Compiler(None, 1))


def test_compile_writes_a_golden_policy_for_a_target(
    tmp_path: Path, compiled_golden: Path, policy_engine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The verb, with real machine code for everything that one policy runs; a second run finds it in the cache."""
    document = read_gpu_document(compiled_golden / "gpu.lwam")
    assert document is not None and list(document["images"]) == ["sm_87"]
    assert all(len(task["tactics"]["sm_87"]) == 1 for task in document["tasks"])
    Policy(compiled_golden / "gpu.lwam", device="cpu")
    plain, cache = policy_engine("golden_set3", "bf16"), tmp_path / "cache"
    shutil.copytree(compiled_golden / "cache", cache)
    assert any(cache.iterdir())
    options = ["--targets", "sm_87", "--tactics", "1", "--cache", str(cache), "--jobs", "2"]
    assert main(["compile", str(plain), str(tmp_path / "gpu.lwam"), *options]) == 0
    assert "0 variants compiled, others were in the cache" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "gpu.lwam").read_bytes() == (compiled_golden / "gpu.lwam").read_bytes()
    kernels = kernels_of(compile_plan(lower(read_engine(plain)), ["sm_87"], Compiler(CompileCache(cache), 1), 1))
    assert {task.kernel for task, _ in kernels.values()} == {task["kernel"] for task in document["tasks"]}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--targets", "sm_87,sm_88"], "ConfigError: --targets: target 'sm_88' is unknown: use sm_87 (Jetson Orin)"),
        (["--targets", ","], "ConfigError: --targets: no target is given"),
        (["--tactics", "0"], "ConfigError: --tactics is 0: use at least 1"),
        (["--jobs", "0"], "ConfigError: --jobs is 0: use at least 1"),
        ([], "No such file or directory: give the path of an engine file"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    assert main(["compile", str(tmp_path / "none.lwam"), str(tmp_path / "out.lwam"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (tmp_path / "out.lwam").exists()


def test_export_refuses_unknown_targets_before_it_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--random", "nano", "--out", str(tmp_path / "a.lwam"), "--targets", "sm_1"]) == 2
    assert "--targets: target 'sm_1' is unknown" in capsys.readouterr().err
    assert not (tmp_path / "a.lwam").exists()
