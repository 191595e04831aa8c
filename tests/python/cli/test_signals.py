# SPDX-License-Identifier: Apache-2.0
"""Signals end a verb with status 128 + n and one line: its processes end, its work stays, half-written files go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from helpers import commands
from helpers.commands import children, start, wait_until
from lightwam import cli
from lightwam.assets import bundled_engine
from lightwam.bench.measure import BenchOptions, Measurement, measure_engine
from lightwam.cli.stop import Stopped, stopped_by_signals

#: A simulator whose episodes after the first wait for ever in the middle of being written.
SLOW = """
import time
from pathlib import Path
from helpers.toy_sim import Toy, ToyEnv
from lightwam.data import episode_files

class SlowEnv(ToyEnv):
    def record(self, kind, rng):
        if self.recorded:
            episode_files.write_video = lambda *_: time.sleep(600)
        self.recorded += 1
        return super().record("near", rng)

class Slow(Toy):
    def make_env(self, task, **_):
        env = SlowEnv(task)
        env.recorded = 0
        return env
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with the simulator `slow_sim:Slow`."""
    (tmp_path / "slow_sim.py").write_text(SLOW)
    return tmp_path


def ended(process: subprocess.Popen[str], number: signal.Signals) -> list[str]:
    """The lines of its errors after it ended by the signal, its log left out."""
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and "Exception" not in errors
    return [line for line in errors.splitlines() if "interrupted by" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_record(slow: Path, number: signal.Signals) -> None:
    """Two workers: the finished episodes stay, the others and the workers go."""
    out = slow / "set"
    words = f"record --sim slow_sim:Slow --out {out} --episodes 6 --clips 0 --processes 2".split()
    process = start(*words, path=slow)
    staging = out.with_name("set.staging")
    wait_until(lambda: len(list(staging.glob(".*.part"))) == 2 and len(list(staging.glob("episode_*"))) == 2)
    workers = [pid for pid in children(process.pid) if "spawn_main" in commands.command_line(pid)]
    assert len(workers) == 2
    process.send_signal(number)
    assert ended(process, number) == [f"lightwam record: interrupted by {number.name}"]
    assert not any(map(commands.alive, workers))
    assert not list(staging.glob(".*.part")) and len(list(staging.glob("episode_*"))) == 2


def test_record_that_is_killed_takes_its_workers_along(slow: Path) -> None:
    out = slow / "set"
    words = f"record --sim slow_sim:Slow --out {out} --episodes 2 --clips 0".split()
    process = start(*words, path=slow)
    staging = out.with_name("set.staging")
    wait_until(lambda: list(staging.glob("episode_*")) and list(staging.glob(".*.part")))
    workers = children(process.pid)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(commands.alive, workers)))
    assert len(list(staging.glob("episode_*"))) == 1 and not list(staging.glob(".*.part"))


def test_the_episode_of_a_recording_process_that_died_is_recorded_again(slow: Path) -> None:
    out = slow / "set"
    process = start(*f"record --sim slow_sim:Slow --out {out} --episodes 2 --clips 0".split(), path=slow)
    staging = out.with_name("set.staging")
    wait_until(lambda: list(staging.glob("episode_*")) and list(staging.glob(".*.part")))
    (worker,) = (int(path.name.split(".")[-3]) for path in staging.glob(".*.part"))
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=commands.PATIENCE)  # for a new process it is the first episode
    assert process.returncode == 0 and "Traceback" not in errors
    assert f"process {worker} was ended by SIGKILL in the middle of job 2 of 2: the job is done again" in errors
    assert json.loads((out / "meta/info.json").read_text())["total_episodes"] == 2
    assert len(list(staging.glob("episode_*"))) == 2


def measuring(process: subprocess.Popen[str]) -> int:
    """The process that `bench` started to measure in."""
    found: list[int] = []

    def started() -> bool:
        found[:] = [pid for pid in children(process.pid) if "spawn_main" in commands.command_line(pid)]
        return bool(found)

    wait_until(started)
    return found[0]


def test_bench() -> None:
    process = start("bench", "--runs", "100000000", "--threads", "1")
    worker = measuring(process)
    process.send_signal(signal.SIGTERM)
    assert ended(process, signal.SIGTERM) == ["lightwam bench: interrupted by SIGTERM"]
    assert not commands.alive(worker)


def test_bench_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = measure_engine(bundled_engine(), "cpu", 1, BenchOptions(runs=2, warmup=1, image_size=32))

    def measure(engine: Path, device: str, threads: int | None, options: BenchOptions) -> Measurement:
        if threads == 2:
            raise KeyboardInterrupt
        return measurement

    monkeypatch.setattr("lightwam.cli.bench.measure_alone", measure)
    assert cli.main(["bench", "--threads", "1", "2", "--out", str(tmp_path)]) == 130
    assert len(json.loads((tmp_path / "bench.json").read_text())["records"]) == 1


def test_bench_names_the_process_that_died() -> None:
    process = start("bench", "--runs", "100000000", "--threads", "1")
    worker = measuring(process)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 2 and "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("lightwam bench:")]
    assert f"the measuring process {worker} was ended by SIGKILL" in line and line.endswith("free some")


#: In whose import an exception is the end of the process, as it is in the C++ of some extensions.
DELICATE = """
import os, time
print("ready", flush=True)
try:
    time.sleep(1)
except BaseException:
    os.abort()
"""

VERB = """
import dataclasses, os, signal, sys, time
from pathlib import Path
from lightwam import cli
from lightwam.files import replacing_file, replacing_folder

@dataclasses.dataclass(frozen=True)
class Args:
    folder: Path
    how: str = "plain"

class Dropped:  # Python drops what is raised in there
    def __del__(self):
        print("ready", flush=True)
        time.sleep(600)

def main(args):
    try:
        if args.how == "dropped":
            Dropped()
        if args.how == "import":
            import delicate
        with replacing_file(args.folder / "file") as file, replacing_folder(args.folder / "folder") as folder:
            file.touch()
            (folder / "part").touch()
            print("ready", flush=True)
            while True:
                time.sleep(0.01)
    except KeyboardInterrupt:
        if args.how == "converted":
            raise ValueError("what a library makes of it")
        if args.how == "forgotten":
            sys.exit(0)
        if args.how == "echo":
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        raise

if __name__ == "__main__":
    cli.VERBS["wait"] = cli.Verb("wait", "waiting_verb", "Args")
    sys.exit(cli.main())
"""


def waiting(folder: Path, *options: str, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A verb that waits in the middle of writing into `folder`/out."""
    (folder / "out").mkdir()
    script = folder / "waiting_verb.py"
    script.write_text(VERB)
    (folder / "delicate.py").write_text(DELICATE)
    process = start("wait", "--folder", folder / "out", *options, script=script, under=under)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", ["plain", "converted", "forgotten", "echo", "dropped", "import"])
def test_any_verb(tmp_path: Path, how: str) -> None:
    """Whatever the code that meets the signal makes of it, and when more signals follow at once."""
    process = waiting(tmp_path, "--how", how)
    process.send_signal(signal.SIGTERM)
    assert ended(process, signal.SIGTERM) == ["lightwam wait: interrupted by SIGTERM"]
    assert list((tmp_path / "out").iterdir()) == []


def test_the_terminal_is_gone(tmp_path: Path) -> None:
    """Neither the last line nor what is buffered can be written: the status stays."""
    process = waiting(tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(commands.PATIENCE) == 129


def test_nohup(tmp_path: Path) -> None:
    """A signal that the process was started to ignore stays ignored."""
    process = waiting(tmp_path, under=("nohup",))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 143 and "interrupted by SIGTERM" in errors


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in cli.stop.SIGNALS]
    assert cli.main(["inspect", "absent.lwam"]) == 2
    assert [signal.getsignal(number) for number in cli.stop.SIGNALS] == before


def test_off_the_main_thread_there_are_no_signals() -> None:
    seen: list[object] = []

    def work() -> None:
        with stopped_by_signals(program=False):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_ctrl_c_without_a_signal() -> None:
    with pytest.raises(Stopped) as stop, stopped_by_signals(program=False):
        raise KeyboardInterrupt
    assert stop.value.signal == signal.SIGINT
