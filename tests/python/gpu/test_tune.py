# SPDX-License-Identifier: Apache-2.0
"""`lightwam tune` on the stand-in driver: toy kernels of which some seem slow; the file that it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from helpers.standin import run_script
from lightwam.cli.tune import print_tuning
from lightwam.runtime import TaskTiming, Tuning, read_tunings, tuning_path, write_tuning

TUNE = """
import json, sys
from pathlib import Path
from helpers.engine_files import TASK, observation, small_engine, write_engine
from helpers.gpu_plans import small_gpu_engine
from helpers.standin import Standin
from helpers.toy_policy import run_toy
from lightwam.cli import main
from lightwam.bench.measure import BenchOptions, measure_engine
from lightwam.runtime import Policy, read_tunings, tuning_path

standin = Standin(sys.argv[1])
standin.set_device(87)
slow = {"double_kernel": 200, "double_kernel_2": 100, "mix_kernel": 300, "mix_kernel_1": 300}
launched = set()
def kernel(launch):
    launched.add(launch.entry)
    standin.advance_clock(slow.get(launch.entry, 200))
    run_toy(launch)
standin.set_kernel(kernel)
path = write_engine(Path(sys.argv[2]) / "small.lwam", small_gpu_engine())

def tune(*options):
    return main(["tune", str(path), "--repeats", "2", *options])

def failing(nth):
    standin.fail("cuGraphLaunch", nth, 1)

failing(30)
assert tune() == 2 and not tuning_path(path).exists()
assert "default tactics (not tuned; run 'lightwam tune'" in Policy(path, device="cuda").execution_info
assert tune() == 0
tuning, = read_tunings(path)
assert [task.chosen for task in tuning.tasks] == [0, 0, 0, 2, 0] and tuning.gpu == "Stand-in", tuning
assert 200 <= tuning.tasks[3].seconds[0] < 210 and tuning.tuned_seconds < tuning.default_seconds

policy = Policy(path, device="cuda")
assert "tactics tuned on this GPU" in policy.execution_info
policy.set_instruction(TASK)
launched.clear()
policy.infer(observation())
assert {"double_kernel_2", "mix_kernel"} <= launched, launched
seen = policy.infer(observation(), by_stage=True)
assert list(seen.timings) == ["preprocess", "backbone", "expert", "postprocess", "total"], seen.timings
assert 100 <= seen.timings["expert"] < 110

measured = measure_engine(path, "cuda", None, BenchOptions(runs=2, warmup=1))
assert set(measured.record.stages) == {"preprocess", "backbone", "expert", "postprocess"}, measured
assert measured.samples["expert"].p50 >= 100

class Enough(Exception):
    pass

def stop(done, total):
    if done == 5:
        raise Enough(total)

try:
    policy.tune(observation(), 2, stop)
except Enough as error:
    assert error.args == (25,)
else:
    raise AssertionError("not stopped")
assert (policy.infer(observation()).actions == seen.actions).all()

before = tuning_path(path).read_bytes()
failing(30)  # in the middle, with a good file there
assert tune() == 2 and tuning_path(path).read_bytes() == before
tuning_path(path).write_text("{")
assert tune() == 0 and len(read_tunings(path)) == 1
plain = write_engine(Path(sys.argv[2]) / "plain.lwam", small_engine())
assert main(["tune", str(plain)]) == 2 and not tuning_path(plain).exists()
assert tune("--image-size", "0") == 2 and tune("--repeats", "0") == 2
assert not standin.misuse and not standin.failures and standin.leaked == 0, (standin.misuse, standin.failures)
"""

OTHER_THREAD = """
import sys
from pathlib import Path
from threading import Thread
from helpers.engine_files import TASK, observation, write_engine
from helpers.gpu_plans import small_gpu_engine
from helpers.standin import Standin
from helpers.toy_policy import run_toy
from lightwam.runtime import Policy

standin = Standin(sys.argv[1])
standin.set_device(87)
standin.set_kernel(run_toy)
policy = Policy(write_engine(Path(sys.argv[2]) / "small.lwam", small_gpu_engine()), device="cuda")
policy.set_instruction(TASK)
told = []
readers = [Thread(target=lambda: told.append(policy.instruction)) for _ in range(3)]
def progress(done, total):
    if done <= len(readers):
        readers[done - 1].start()
policy.tune(observation(), 2, progress)
for reader in readers:
    reader.join()
assert told == [TASK] * 3, told
"""

TIMING = TaskTiming("block.0", "matmul", 2, ("a", "b"), (2e-3, 1e-3), 1)
TUNING = Tuning("GPU", "sm_87", 12060, "0123456789abcdef", (TIMING,), 2e-3, 1e-3, 1.0)


def test_tune_bench_and_a_tuned_policy(tmp_path: Path, standin_library: Path) -> None:
    run_script(TUNE, standin_library, tmp_path)


def test_another_thread_reads_the_instruction_meanwhile(tmp_path: Path, standin_library: Path) -> None:
    """It waits for the policy without holding the interpreter, which the progress of the tuning needs."""
    run_script(OTHER_THREAD, standin_library, tmp_path, timeout=60)


def test_the_library_is_named_or_why_there_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_tuning(dataclasses.replace(TUNING, why_no_library="there is no cuBLASLt"))
    assert "only the engine's own tactics were timed: there is no cuBLASLt" in capsys.readouterr().out
    timing = dataclasses.replace(TIMING, tactics=("a", "cuBLASLt 13.1.0"))
    tuning = dataclasses.replace(TUNING, tasks=(timing, TIMING), library="cuBLASLt 13.1.0")
    print_tuning(tuning)
    assert "cuBLASLt 13.1.0: timed for 1 tasks, the fastest for 1" in capsys.readouterr().out
    assert write_tuning(tmp_path / "policy.lwam", tuning) == ""
    assert read_tunings(tmp_path / "policy.lwam") == (tuning,)


def test_a_file_holds_several_gpus(tmp_path: Path) -> None:
    engine = tmp_path / "policy.lwam"
    other = dataclasses.replace(TUNING, gpu="Other")
    newer = dataclasses.replace(TUNING, plan="f" * 16, tasks=(TIMING, TIMING))
    for tuning, expected in ((TUNING, (TUNING,)), (other, (TUNING, other)), (newer, (other, newer))):
        assert write_tuning(engine, tuning) == "" and read_tunings(engine) == expected
    document = json.loads(tuning_path(engine).read_text())
    assert document["gpus"][1]["tactics"] == [1, 1] and "chosen" not in document["gpus"][1]["tasks"][0]
    assert [path.name for path in tmp_path.iterdir()] == ["policy.lwam.tuning.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "lightwam-tuning", "format_version": 2, "gpus": []}', "\x00",
     '{"format": "lightwam-tuning", "format_version": 1, "gpus": [{"tactics": [], "tasks": [{}]}]}'],
)  # fmt: skip
def test_a_damaged_file_is_replaced_and_said_to_be(tmp_path: Path, text: str) -> None:
    engine = tmp_path / "policy.lwam"
    tuning_path(engine).write_text(text)
    said = write_tuning(engine, TUNING)
    assert str(tuning_path(engine)) in said and "\n" not in said
    assert read_tunings(engine) == (TUNING,)


def test_times_that_are_not_finite_replace_nothing(tmp_path: Path) -> None:
    engine = tmp_path / "policy.lwam"
    write_tuning(engine, TUNING)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tuning(engine, dataclasses.replace(TUNING, gpu="Other", tuned_seconds=float("nan")))
    assert read_tunings(engine) == (TUNING,) and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "policy.lwam"
    write_tuning(engine, TUNING)

    def refuse(source: object, target: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("lightwam.runtime.tuning.os.replace", refuse)
    with pytest.raises(OSError, match="no room"):
        write_tuning(engine, dataclasses.replace(TUNING, gpu="Other"))
    assert read_tunings(engine) == (TUNING,)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.lwam.tuning.json"]
