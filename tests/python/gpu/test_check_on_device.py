# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu_check.sh without a GPU: its error, its steps on the stand-in driver, its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_report
import pytest
from gpu_check import Check, Step, build_steps, engine_steps, measuring_steps, parse

from helpers.standin import run_script

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


_PREAMBLE = """
import sys
from pathlib import Path
import numpy as np
from helpers.standin import Standin, interpreted
sys.path.insert(0, sys.argv[3])
standin = Standin(sys.argv[1])
standin.set_device(87)
folder = Path(sys.argv[2])
from gpu_driver import Gpu
"""

_KERNELS = """
import hashlib
from gpu_cases import check_kernels
from lightwam.kernels.ops import affine, text_key_bias
from lightwam.kernels.compiler.cache import CompileCache
from lightwam.kernels.compiler.tasks import Compiler

tasks = [affine.CASES[0], text_key_bias.CASES[0]]
made = Compiler(CompileCache(folder / "cache"), 2).compile(tasks, ["sm_87"], 1)
codes = [kept for row in made for kept in row["sm_87"].kept]
names = {(hashlib.sha256(c.code.cubin).hexdigest(), c.code.entry): (t, c.tactic) for t, c in zip(tasks, codes)}
right = interpreted(standin, names)
standin.set_kernel(right)
with Gpu() as gpu:
    assert gpu.facts().target == "sm_87"
    result = check_kernels(gpu, "sm_87", folder / "cache", 1, tasks)
assert result == {"cases": 2, "launches": 2, "faults": [], "refused": []}, result
assert standin.leaked == 0 and not standin.misuse, standin.misuse

import ctypes
def wrong(launch):  # an element of the result, then a byte after it
    right(launch)
    task, _ = names[launch.cubin_sha256, launch.entry]
    written = [(a, at) for a, at in zip(task.arguments, launch.addresses) if a.mode == "w"]
    argument, address = written[0]
    ctypes.c_uint8.from_address(address + (3 if task is tasks[0] else argument.num_bytes)).value ^= 0x7F
standin.set_kernel(wrong)
with Gpu() as gpu:
    faults = check_kernels(gpu, "sm_87", folder / "cache", 1, tasks)["faults"]
assert len(faults) == 2 and faults[0].startswith("affine") and "outside" in faults[1], faults

def lost(launch):
    raise ValueError("lost")
standin.set_kernel(lost)
with Gpu() as gpu:
    result = check_kernels(gpu, "sm_87", folder / "cache", 1, tasks)
assert result["launches"] == 1 and "no more ran" in result["faults"][0], result
"""

_ENGINE = """
import json
from dataclasses import replace
from helpers.engine_files import small_engine, write_engine
from helpers.shells import write_shell_engine
from lightwam.engine.file import read_engine
from lightwam.gpu.lower import lower
from gpu_plan import launch_times
import gpu_steps
from lightwam.cli.tune import TuneArgs, tune

source, path = folder / "plain.lwam", folder / "small.lwam"
write_engine(source, small_engine(images=False))
graph = read_engine(source)
standin.set_kernel(interpreted(standin, write_shell_engine(graph, lower(graph), path)))
with Gpu() as gpu:
    tuning = tune(TuneArgs(path, repeats=1))
    gpu_steps.STAGE_RUNS = 1
    checked = gpu_steps.check_policy(gpu, path, 1, warm_up=1)
    assert {"backbone", "expert"} <= set(checked["stages"]) and "tactics tuned" in checked["execution_info"], checked
    assert checked["ok"] and min(checked["cosines"]) > 1 - 1e-9, checked
    assert checked["device_memory_bytes"] > 0 and "GPU" in checked["execution_info"]
    facts = replace(gpu.facts(), name="Jetson AGX Orin", memory_bytes=64 << 30)
    measured = launch_times(facts, path, tuning)
    assert measured["roofline"]["name"].startswith("Jetson AGX Orin")
    assert sum(row["launches"] for row in measured["tasks"]) == measured["launches"] > 5
    assert abs(sum(row["roofline_seconds"] for row in measured["tasks"]) - measured["roofline_seconds"]) < 1e-12
    assert all(row["seconds"] == row["default_seconds"] > 0 for row in measured["tasks"])
    assert 0 < measured["tuned_seconds"] <= measured["default_seconds"]
assert not standin.failures and not standin.misuse, (standin.failures, standin.misuse)
print(json.dumps({"policy small": checked, "tune small": measured}))
"""


def test_cases_of_kernels_as_machine_code(tmp_path: Path, standin_library: Path) -> None:
    """Right results, a wrong element, a byte beside, and a GPU that is lost."""
    run_script(_PREAMBLE + _KERNELS, standin_library, tmp_path, BENCHMARKS)


def test_policy_and_launches_of_an_engine(tmp_path: Path, standin_library: Path) -> None:
    results = json.loads(run_script(_PREAMBLE + _ENGINE, standin_library, tmp_path, BENCHMARKS))
    written = gpu_report.text(_check(results))
    assert "| small | " in written and "## Kernels of small" in written and "| matvec | " in written
    failed = {**results, "policy small": {**results["policy small"], "ok": False}}
    assert "**below 0.99999**" in gpu_report.text(_check(failed))
    assert "## Kernels of" not in gpu_report.text(_check({**results, "tune small": None}))


def _check(results: dict[str, Any]) -> dict[str, Any]:
    gpu = {"name": "Some GPU", "target": "sm_87", "memory_bytes": 1 << 33, "integrated": False, "driver": "12.6"}
    steps = [{"name": "build", "state": "failed", "seconds": 1.0, "why": "a | b"}]
    return {"gpu": gpu, "machine": {"cores": 2, "system": "Linux"}, "steps": steps, "results": results}


def test_error_without_a_gpu(tmp_path: Path) -> None:
    """One line, status 2, and no folder. The driver is hidden where there is one."""
    hidden = tmp_path / "libcuda.so.1"
    hidden.write_text("no library")
    environment = {**os.environ, "PYTHON": sys.executable, "LD_LIBRARY_PATH": str(tmp_path)}
    command = ["bash", str(BENCHMARKS / "gpu_check.sh"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gpu_check: no GPU driver") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def _python(name: str, code: str, **options: Any) -> Step:
    return Step(name, (sys.executable, "-c", code), **{"limit": 20, **options})


def test_a_step_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    check = Check(tmp_path, time.monotonic() + 60, dict(os.environ))
    check.run_all([
        _python("timed", "", needs=("good",), alone=True),
        _python("good", "print('fine')"),
        _python("bad", "import sys; print('out of luck'); sys.exit(3)"),
        _python("slow", "import time; time.sleep(60)", limit=1),
        _python("silent", "", makes=tmp_path / "never.json"),
        _python("differs", f"open({str(made)!r}, 'w').write('{{}}'); raise SystemExit(1)", makes=made),
        _python("after", "", needs=("bad", "good"), alone=True),
    ])  # fmt: skip
    assert {name: outcome.state for name, outcome in check.outcomes.items()} == {
        "timed": "done", "good": "done", "bad": "failed", "slow": "time is up", "silent": "failed",
        "differs": "disagrees", "after": "left out",
    }  # fmt: skip
    assert check.outcomes["bad"].why == "exit status 3: out of luck" and "bad" in check.outcomes["after"].why
    late = Check(tmp_path, time.monotonic(), {})
    assert late.run(_python("late", "")).state == "left out"


@pytest.mark.parametrize("files", [("a/mine.lwam", "b/mine.lwam"), ("libero-int8.lwam",)])
def test_engines_of_one_name_are_refused(files: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([word for file in files for word in ("--engine", file)])
    assert "another engine of this check is named" in capsys.readouterr().err


def test_steps_fit_together(tmp_path: Path) -> None:
    """Every step's needs are steps; a wheel of lightwam takes the place of the build."""
    (tmp_path / "lightwam-0.1.0-cp311.whl").write_bytes(b"")
    for words, builds in (([], ["build"]), (["--wheels", str(tmp_path)], ["wheels"])):
        arguments = parse([*words, "--engine", "mine.lwam", "--out", str(tmp_path)])
        first = build_steps(arguments, tmp_path / "site")
        assert [step.name for step in first] == builds
        ready = tuple(builds)
        makers, engines = engine_steps(arguments, "sm_90", ready)
        steps = [*first, *makers, *measuring_steps(arguments, engines, ready)]
        names = [step.name for step in steps]
        assert len(set(names)) == len(names) and {"policy mine", "tune libero-int8", "kernels"} <= set(names)
        assert all(need in names for step in steps for need in step.needs)


@pytest.mark.parametrize(
    ("name", "memory", "expected"),
    [("NVIDIA H200", 141, "H200"), ("NVIDIA H100 80GB HBM3", 80, "H100 SXM"),
     ("Orin", 7.4, "Jetson Orin Nano Super 8 GB"), ("Orin", 61, "Jetson AGX Orin 64 GB"), ("GeForce GT 710", 2, None)],
)  # fmt: skip
def test_roofline_of_a_gpu(name: str, memory: float, expected: str | None) -> None:
    from gpu_driver import GpuFacts
    from gpu_plan import roofline_of

    device = roofline_of(GpuFacts(name, "sm_90", int(memory * 1e9), False, "12.6"))
    assert (device.name if device else None) == expected
