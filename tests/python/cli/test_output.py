# SPDX-License-Identifier: Apache-2.0
"""Output that cannot be written: no work is lost, and the exit status tells of the work."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lightwam.assets import bundled_engine
from lightwam.progress import counting_bar, progress_bar, tally_bar
from lightwam.terminal import SafeStream, safe_output, table

INSPECT = f"inspect {bundled_engine()}"
BENCH = "bench --runs 2 --warmup 1 --threads 1"


def lightwam(words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell, with redirections `shell` behind it."""
    command = f"set -o pipefail; {sys.executable} -m lightwam.cli {words} {shell}"
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=variables, timeout=300)


# -- whole commands -------------------------------------------------------------------------------------------------


def test_a_full_disk_behind_standard_output_keeps_the_work(tmp_path: Path) -> None:
    done = lightwam(f"{BENCH} --out {tmp_path}", "> /dev/full")
    assert done.returncode == 0 and (tmp_path / "bench.json").is_file()
    assert "No space left on device" in done.stderr and f"wrote {tmp_path / 'bench.json'}" in done.stderr


def test_what_only_prints_fails_when_its_output_is_lost() -> None:
    done = lightwam(INSPECT, "> /dev/full")
    assert done.returncode == 2 and "No space left on device" in done.stderr and "precision" in done.stderr


@pytest.mark.parametrize("shell", ["| head -n 1", "| head -c 0", ">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_error(shell: str) -> None:
    done = lightwam(INSPECT, shell)
    assert done.returncode == 0 and done.stderr == ""


def test_a_bar_on_a_closed_pipe_ends_no_work(tmp_path: Path) -> None:
    done = lightwam(f"{BENCH} --out {tmp_path}", "| head -c 0")
    assert done.returncode == 0 and done.stderr == "" and (tmp_path / "bench.json").is_file()


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "0", "LINES": "0"}, {"COLUMNS": "1"}, {"COLUMNS": "wide"}, {"TERM": "dumb", "NO_COLOR": "1"},
        {"TERM": "nonsense"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-16"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONWARNINGS": "error"},
        {"OMP_NUM_THREADS": "garbage"},
    ],
)  # fmt: skip
def test_whatever_the_terminal_is_the_table_is_whole(environment: dict[str, str]) -> None:
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    command = [sys.executable, "-m", "lightwam.cli", *INSPECT.split()]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=300)
    text = done.stdout.decode(encoding)
    assert done.returncode == 0 and done.stderr == b""
    assert "stage" in text and "backbone" in text and "expert" in text


def test_matplotlib_s_settings_are_not_ours(tmp_path: Path) -> None:
    done = lightwam(f"{BENCH} --out {tmp_path}", MPLBACKEND="nonsense")
    assert done.returncode == 0 and done.stderr == "" and (tmp_path / "bench.png").stat().st_size > 1000


# -- the stream -----------------------------------------------------------------------------------------------------


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_a_character_that_the_encoding_lacks_is_an_escape() -> None:
    inner = ascii_stream()
    stream = SafeStream(inner)
    stream.write("5 \u00b5s \u2500 \udcff\n")
    assert inner.buffer.getvalue() == b"5 \\xb5s \\u2500 \\udcff\n" and stream.failure is None  # type: ignore[attr-defined]


class Full(io.StringIO):
    """A stream on a full disk, as a buffered file is: `flush` fails."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_what_was_not_delivered_goes_to_the_spare_stream() -> None:
    spare = io.StringIO()
    stream = SafeStream(Full(), SafeStream(spare))
    stream.write("first ")
    stream.write("line\n")
    stream.write("second line\n")
    assert stream.lost
    assert spare.getvalue() == (
        "the output cannot be written (No space left on device); the rest:\nfirst line\nsecond line\n"
    )


def test_a_closed_pipe_says_nothing() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    spare = io.StringIO()
    stream = SafeStream(Closed(), SafeStream(spare))
    stream.write("line\n")
    assert stream.failure is not None and not stream.lost and spare.getvalue() == ""


def test_a_stream_that_is_closed_or_absent() -> None:
    closed = io.StringIO()
    closed.close()
    for inner in (None, closed):
        stream = SafeStream(inner)
        assert stream.write("line\n") == 5 and not stream.isatty()


def test_a_stream_that_another_program_made_non_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node and others do: Python drops what does not fit into a full pipe, without an error."""
    source, drain = os.pipe()
    os.set_blocking(drain, False)
    lines = b"".join(b"x" * 1000 + b"\n" for _ in range(300))  # a pipe holds 65,536 bytes
    read: list[bytes] = []

    def reader() -> None:
        while block := os.read(source, 1 << 16):
            read.append(block)

    thread = threading.Timer(0.2, reader)
    with open(drain, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        thread.start()
        with safe_output() as output:
            print(lines.decode(), end="")
        assert output.failure is None and not os.get_blocking(drain)
    thread.join()
    os.close(source)
    assert b"".join(read) == lines


def test_standard_streams_are_put_back_and_wrapped_once() -> None:
    before = sys.stdout, sys.stderr
    with safe_output() as output, safe_output() as inner:
        assert output is inner is sys.stdout and isinstance(sys.stderr, SafeStream)
    assert (sys.stdout, sys.stderr) == before


# -- tables and bars ------------------------------------------------------------------------------------------------


def test_columns() -> None:
    shown = table(("name", "ms"), [("vae", "1.25"), ("all", "10.5"), ("a\nb", "-")], "title")
    assert shown.splitlines() == ["title", "name    ms", "vae   1.25", "all   10.5", "a\\nb     -"]
    assert table(("a", "b"), []) == "a  b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightwam.progress._EVERY", 0.0)
    monkeypatch.setenv("COLUMNS", "66")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with tally_bar("trials", 4, "solved", done=1) as advance:
        advance(1, 1)
        advance(2, 1)
    first, *_, last = terminal.getvalue().split("\r")
    assert "trials  [############------------]  2/4  0:00:00 left  1 solved" in first
    assert "[########################]  4/4  0:00:00  2 solved" in last and last.endswith("\n")
    assert terminal.getvalue().count("\n") == 1 and len(first) <= 65


@pytest.mark.parametrize("columns", ["1", "0", "x"])
def test_a_bar_on_a_terminal_without_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with progress_bar("writing", 0, show=True) as advance:
        advance(3)
    assert terminal.getvalue().endswith("\n")


def test_a_bar_elsewhere_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with pytest.raises(ValueError), counting_bar("decode", show=True, stderr=True) as update:
        update(3, 12)
        raise ValueError
    assert stream.getvalue() == "decode  3/12  0:00:00\n"
