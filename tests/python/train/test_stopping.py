# SPDX-License-Identifier: Apache-2.0
"""A training that is ended in any way goes on as if it had not been; signals are saved for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightwam.cli.stop import Stopped, stopped_by_signals
from lightwam.train import stopping
from lightwam.train.stopping import stop_requests

STRESS = Path(__file__).parents[2] / "stress/training.py"


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so would the tests that are started there."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for number in stopping.SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_runs_that_are_ended_go_on_bit_for_bit() -> None:
    """SIGKILL, SIGTERM and a full disk, once each (tests/stress/training.py)."""
    done = subprocess.run([sys.executable, str(STRESS), "all", "--count", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'same weights': 1") == 3


def test_a_signal_is_raised_again_after_the_loop(capfd: pytest.CaptureFixture[str]) -> None:
    steps = 0
    with pytest.raises(Stopped) as stopped, stopped_by_signals(program=False), stop_requests() as stop:
        while not stop.signal:
            steps += 1
            if steps == 3:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # an echo
    assert stopped.value.signal == signal.SIGTERM and steps == 3
    assert capfd.readouterr().err == "SIGTERM: saving after this step; once more ends at once\n"


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ECHO", -1.0)
    with pytest.raises(Stopped), stopped_by_signals(program=False), stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal was not raised")


def test_an_error_in_the_loop_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="mine"), stop_requests():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup` starts a process so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_off_the_main_thread_there_are_no_signals() -> None:
    seen: list[int] = []

    def loop() -> None:
        with stop_requests() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [0]
