# SPDX-License-Identifier: Apache-2.0
"""The ahead-of-time compiler: what it makes, what it keeps, what it drops. No GPU is needed.

Tasks and tactics are the smallest that show the point: a variant takes 0.3 to 1.5 s.
"""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from helpers.commands import alive, wait_until
from lightwam.kernels.compiler import tasks as compile_tasks
from lightwam.kernels.compiler.cache import CompileCache
from lightwam.kernels.compiler.tasks import CompiledTask, CompileError, Compiler
from lightwam.kernels.compiler.variant import Code, Variant, clean_environment, source_hash, variant_key
from lightwam.kernels.compiler.worker import compile_variants
from lightwam.kernels.ops import device, elementwise, matmul, quantize_rows, row_norm
from lightwam.kernels.targets import TARGETS, known_targets
from lightwam.kernels.task import Tactic

TARGET = "sm_87"
ROWS_OF_ONE_WARP = {"BLOCK_ROWS": 8, "BLOCK": 1024}  # 256 numbers a thread
NO_POWER_OF_TWO = {"BLOCK": 96}
SMALL = elementwise.task("add", 5, [7, 7], x=["f32", "bf16"], y="f32")


def with_tactics(monkeypatch: pytest.MonkeyPatch, *tactics: Tactic) -> None:
    """Let every task have these tactics."""
    monkeypatch.setattr(compile_tasks, "candidates", lambda task, target: list(tactics))


@dataclass(frozen=True)
class Compiled:
    """What the first compiler of these tests made, and the folder in which it is kept."""

    folder: Path
    new: int
    progress: list[tuple[int, int]]
    results: list[dict[str, CompiledTask]]


TASKS = [SMALL, row_norm.task(4, 64, kind="rms", x="f32", y="bf16", eps=1e-6, weight=True), SMALL]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Two kernels, one of them twice, for two targets."""
    folder = tmp_path_factory.mktemp("kernels")
    compiler = Compiler(CompileCache(folder), 2)
    progress: list[tuple[int, int]] = []
    results = compiler.compile(TASKS, ["sm_87", "sm_110"], on_progress=lambda *numbers: progress.append(numbers))
    return Compiled(folder, compiler.compiled, progress, results)


def test_two_kernels_for_two_targets_then_from_the_cache(compiled: Compiled) -> None:
    assert compiled.new == 4 and compiled.progress == [(i, 4) for i in range(5)]
    for row in compiled.results:
        for target, result in row.items():
            (kept,) = result.kept
            check_cubin(kept.code, TARGETS[target].architecture, len(result.task.arguments))
            assert kept.code.threads == 32 * kept.tactic.num_warps and 0 < kept.code.registers <= 255
            assert kept.code.stack == 0 and not result.dropped
    second = Compiler(CompileCache(compiled.folder), 1)
    again = second.compile(TASKS, ["sm_87", "sm_110"])
    assert second.compiled == 0
    assert [r.kept for row in again for r in row.values()] == [r.kept for row in compiled.results for r in row.values()]


def check_cubin(code: Code, architecture: int, arguments: int) -> None:
    """An ELF file for the architecture, whose entry takes the arguments and two pointers more."""
    assert code.cubin[:4] == b"\x7fELF" and f".text.{code.entry}\0".encode() in code.cubin
    (flags,) = struct.unpack_from("<I", code.cubin, 48)
    assert architecture == (flags & 0xFF if code.cubin[8] == 7 else flags >> 8 & 0xFF)
    size = struct.pack("<BBH", 3, 0x19, 8 * (arguments + 2))  # bytes of all parameters, in .nv.info
    assert size in code.cubin


def test_equal_variants_compile_once(compiled: Compiled) -> None:
    assert compiled.new == 2 * (len(TASKS) - 1)
    assert compiled.results[0][TARGET].kept == compiled.results[2][TARGET].kept


def test_machine_code_is_the_same_every_time_and_holds_no_paths(compiled: Compiled) -> None:
    variant = Variant(SMALL, elementwise.tactics(SMALL, TARGET)[0], TARGET)
    first, second = compiled.results[0][TARGET].kept[0].code, compile_variants([variant], 1, lambda v, o: None)[0]
    assert isinstance(first, Code) and first == second
    assert b"elementwise.py" not in first.cubin and str(Path.cwd()).encode() not in first.cubin


def test_fp8_matmuls_run_on_the_tensor_cores_of_targets_that_have_them() -> None:
    """One matmul for each target, without spills; their sums may not be left to the 14 bits of tensor cores."""
    task = matmul.task(128, 128, 256, x="f8", weight="f8", y="bf16", x_mode="quantized")
    targets = [name for name, target in TARGETS.items() if target.fp8]
    assert {"sm_89", "sm_90", "sm_110", "sm_120"} <= {*targets} and "sm_87" not in targets
    variants = [Variant(task, matmul.tactics(task, target)[0], target) for target in targets]
    for variant in variants:
        assert variant.tactic.constants["STEP_SUMS"] == (TARGETS[variant.target].tensor_core != "tcgen05")
    for code in compile_variants(variants, 2, lambda v, o: None).values():
        assert isinstance(code, Code) and code.stack == 0


def test_a_target_without_fp8_is_named_with_the_remedy() -> None:
    task = quantize_rows.task(2, 32, x="f32", y="f8")
    with pytest.raises(ValueError, match=r"target sm_87 \(Jetson Orin\) has no fp8 matmuls.*quantize --format int8"):
        Compiler(None, 1).compile([SMALL, task], ["sm_90", "sm_87"])


@pytest.mark.parametrize("damage", ["changed", "short", "empty", "another's"])
def test_damaged_cache_entries_count_as_absent(tmp_path: Path, damage: str) -> None:
    cache = CompileCache(tmp_path)
    code = Code(b"\x7fELF code", "kernel", 128, 0, 20, 0)
    cache.store("ab" * 32, code)
    cache.store("cd" * 32, code)
    (path,) = (tmp_path / "ab").iterdir()
    stored = path.read_bytes()
    (other,) = (tmp_path / "cd").iterdir()
    damaged = {
        "changed": stored[:-1] + bytes([stored[-1] ^ 1]),
        "short": stored[:-1],
        "empty": b"",
        "another's": other.read_bytes(),
    }
    assert cache.load("ab" * 32) == code
    path.write_bytes(damaged[damage])
    assert cache.load("ab" * 32) is None
    cache.store("ab" * 32, code)
    assert cache.load("ab" * 32) == code


def test_spilling_and_large_tactics_are_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = [row_norm.task(64, 1024, kind="rms", x="f32", y="f32", eps=1e-6)]
    good = row_norm.tactics(tasks[0], TARGET)[0]
    spilling = Tactic({**good.constants, **ROWS_OF_ONE_WARP}, num_warps=1)
    failing = Tactic({**good.constants, **NO_POWER_OF_TWO})
    compiler = Compiler(CompileCache(tmp_path), 2)
    with_tactics(monkeypatch, spilling, failing, good)
    (row,) = compiler.compile(tasks, [TARGET])
    assert [kept.tactic for kept in row[TARGET].kept] == [good] and row[TARGET].kept[0].note == ""
    dropped = row[TARGET].dropped
    assert [tactic for tactic, _ in dropped] == [spilling, failing] and dropped[0][1].startswith("spills ")
    with_tactics(monkeypatch, failing, spilling)  # none is left
    (row,) = compiler.compile(tasks, [TARGET])
    assert [(kept.tactic, kept.note) for kept in row[TARGET].kept] == [(spilling, dropped[0][1])]
    with_tactics(monkeypatch, failing)
    with pytest.raises(CompileError, match=r"row_norm cannot be compiled for sm_87: \w+: "):
        compiler.compile(tasks, [TARGET])


def test_tactics_past_the_target_s_shared_memory_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    little = replace(TARGETS[TARGET], shared_bytes=4)
    monkeypatch.setattr(compile_tasks, "TARGETS", {TARGET: little})
    task = row_norm.task(4, 64, kind="rms", x="f32", y="f32", eps=1e-6)
    with_tactics(monkeypatch, Tactic({"BLOCK_ROWS": 1, "BLOCK": 64}), Tactic({"BLOCK_ROWS": 1, "BLOCK": 64}, 1))
    (row,) = Compiler(None, 1).compile([task], [TARGET])
    (kept,) = row[TARGET].kept
    assert kept.tactic.num_warps == 1 and kept.code.shared == 0  # rows in one warp need no shared memory
    ((_, reason),) = row[TARGET].dropped
    assert reason.endswith("bytes of shared memory, the target has 4")


def test_later_tactics_are_tried_where_the_first_are_dropped(
    monkeypatch: pytest.MonkeyPatch, compiled: Compiled
) -> None:
    good = elementwise.tactics(SMALL, TARGET)[0]
    with_tactics(monkeypatch, Tactic({"BLOCK": 96}), good, Tactic({"BLOCK": 512}))
    (row,) = Compiler(CompileCache(compiled.folder), 1).compile([SMALL], [TARGET])  # no matmuls: one tactic at a time
    assert [kept.tactic for kept in row[TARGET].kept] == [good]


def test_a_worker_that_ends_costs_its_own_variant_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    variants = [Variant(SMALL, Tactic({"BLOCK": block}), TARGET) for block in (256, 512)]
    monkeypatch.setattr(sys, "executable", str(broken))
    outcomes = compile_variants(variants, 1, lambda variant, outcome: None)
    for index in (0, 1):
        assert re.fullmatch(r"the compiler's process \d+ ended with status 3", str(outcomes[index]))


def fake_python(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be started by a shell script, in which $PYTHON is the real one."""
    path.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_the_variant_of_a_killed_worker_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    died = tmp_path / "died"
    script = f'test -e {died} && exec $PYTHON "$@"; touch {died}; kill -9 $$'
    fake_python(tmp_path / "python", script, monkeypatch)
    variant = Variant(SMALL, Tactic({"BLOCK": 256}), TARGET)
    outcomes = compile_variants([variant], 1, lambda variant, outcome: None)
    assert isinstance(outcomes[0], Code)
    assert f"ended with status -9, in the middle of {variant.name}: it is compiled again" in caplog.text


def test_an_interruption_ends_workers_in_the_middle_of_their_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One worker fails at once, the other would never end; their temporary files go with them."""
    waits, pid = tmp_path / "waits", tmp_path / "pid"
    script = f"mkdir {waits} || exit 3; touch $TMPDIR/half; echo $$ $TMPDIR > {pid}; exec sleep 600"
    fake_python(tmp_path / "python", script, monkeypatch)
    variants = [Variant(SMALL, Tactic({"BLOCK": block}), TARGET) for block in (256, 512)]

    def interrupted(variant: Variant, outcome: object) -> None:
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_variants(variants, 2, interrupted)
    worker, scratch = pid.read_text().split()
    assert not alive(int(worker)) and not Path(scratch).exists()


def test_errors_of_the_listener_reach_the_caller() -> None:
    def full_disk(variant: Variant, outcome: object) -> None:
        raise OSError(28, "No space left on device")

    variants = [Variant(SMALL, Tactic({"BLOCK": block}), TARGET) for block in (256, 512, 1024)]
    with pytest.raises(OSError, match="No space left"):
        compile_variants(variants, 2, full_disk)


def test_unknown_targets() -> None:
    with pytest.raises(ValueError, match=r"target 'sm_88' is unknown: use .*sm_87 \(Jetson Orin\), .*, sm_120"):
        Compiler(None, 1).compile([SMALL], ["sm_87", "sm_88"])
    with pytest.raises(ValueError, match="no target is given"):
        known_targets([])
    assert known_targets(["sm_90", "sm_87", "sm_90"]) == ("sm_90", "sm_87")


def test_keys_tell_variants_apart() -> None:
    tactic = elementwise.tactics(SMALL, TARGET)[0]
    other_task = elementwise.task("add", 5, [7, 7], x=["f32", "f32"], y="f32")
    variants = [
        Variant(SMALL, tactic, TARGET),
        Variant(SMALL, tactic, "sm_89"),
        Variant(SMALL, replace(tactic, num_warps=8), TARGET),
        Variant(SMALL, replace(tactic, num_stages=3), TARGET),
        Variant(SMALL, Tactic({"BLOCK": 512}), TARGET),
        Variant(other_task, tactic, TARGET),
    ]
    assert len({variant_key(variant) for variant in variants}) == len(variants)
    assert variant_key(variants[0]) == variant_key(Variant(SMALL, tactic, TARGET))


def test_the_source_hash_follows_what_the_kernel_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_hash("row_norm"), source_hash("elementwise")
    monkeypatch.setattr(device.sigmoid, "_src", device.sigmoid.src + "\n    # changed", raising=False)
    source_hash.cache_clear()
    assert source_hash("row_norm") != before[0]  # activate, which it calls, calls sigmoid
    assert source_hash("elementwise") == before[1]
    source_hash.cache_clear()


def test_settings_of_the_compiler_in_the_environment_are_dropped() -> None:
    environment = {"PATH": "/bin", "TRITON_DISABLE_LINE_INFO": "0", "DISABLE_PTXAS_OPT": "1"}
    assert clean_environment(environment) == {"PATH": "/bin"}
