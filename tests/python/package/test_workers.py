# SPDX-License-Identifier: Apache-2.0
"""Worker processes: results, errors, deaths that are named and made good, and that they end with this process."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import lightwam
from helpers.commands import alive, wait_until
from lightwam.errors import SimulatorError
from lightwam.files import replacing_folder
from lightwam.workers import WorkerDied, next_job, run_jobs


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> int:
    raise SimulatorError(f"number {number} is odd")


class Untransportable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_untransportably(number: int) -> int:
    raise Untransportable(number, 2)


def kill_once(folder: Path, number: int) -> int:
    """The first process that comes to job 2 is killed in the middle of writing."""
    marker = folder / f"killed-{number}"
    if number == 2 and not marker.exists():
        marker.touch()
        with replacing_folder(folder / "episode_000002") as building:
            (building / "rows").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number: int) -> int:
    os._exit(7)


def test_results_and_errors() -> None:
    assert sorted(run_jobs(double, [1, 2, 3], processes=2)) == [(1, 2), (2, 4), (3, 6)]
    assert list(run_jobs(double, [])) == []
    with pytest.raises(SimulatorError, match="number 1 is odd"):
        list(run_jobs(fail, [1]))
    with pytest.raises(RuntimeError, match="Untransportable: 1 and 2"):
        list(run_jobs(fail_untransportably, [1]))


def test_the_job_of_a_dead_worker_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lightwam.workers"):
        done = sorted(run_jobs(functools.partial(kill_once, tmp_path), [1, 2, 3], unfinished=tmp_path))
    assert done == [(1, 1), (2, 2), (3, 3)]
    assert "was ended by SIGKILL in the middle of job 2 of 3: the job is done again" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed-2"]


def test_a_job_whose_workers_die_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerDied, match="ended with status 7 in the middle of job 1 of 1, as 1 before it"):
        list(run_jobs(die, [5]))
    assert caplog.text.count("done again") == 1
    with pytest.raises(WorkerDied, match=r"ended with status 7 in the middle of job 1 of 1$"):
        list(run_jobs(die, [5], attempts=1))


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from lightwam.files import replacing_folder
from lightwam.workers import run_jobs

def work(folder):
    with replacing_folder(folder / "episode") as building:
        (folder / "worker").write_text(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    list(run_jobs(work, [Path(sys.argv[1])], unfinished=Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_this_process(tmp_path: Path, number: signal.Signals) -> None:
    """Also when it is killed; and what they were writing aside is gone."""
    script, folder = tmp_path / "script.py", tmp_path / "out"
    script.write_text(textwrap.dedent(SCRIPT))
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(lightwam.__file__).parents[1])}
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:
        pid = folder / "worker"
        wait_until(lambda: pid.exists() and pid.read_text())
        worker = int(pid.read_text())
        parent.send_signal(number)
        assert parent.wait(60) != 0
    wait_until(lambda: not alive(worker))
    assert sorted(path.name for path in folder.iterdir()) == ["worker"]


def test_a_worker_goes_on_with_its_group_and_new_ones_take_another() -> None:
    jobs = ["a1", "a2", "b1", "b2", "a3"]
    waiting, workers = list(range(len(jobs))), [SimpleNamespace(group=None) for _ in range(3)]

    def take(number: int) -> str:
        return jobs[next_job(jobs, waiting, workers[number], workers, lambda job: job[0])]

    assert [take(number) for number in (0, 1, 0, 2, 1)] == ["a1", "b1", "a2", "b2", "a3"]
    assert not waiting
