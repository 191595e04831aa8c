# SPDX-License-Identifier: Apache-2.0
"""Scripts in processes of their own, without the seconds in which each would import PyTorch, Triton and their like.

A server imports the modules once; each script runs in a fork of it, and ends as a Python process does.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import lightwam

#: Reads a job a line: a script, its arguments, the file of its output. Answers with its process, then its exit status.
_SERVER = """
import json, os, sys, traceback
prepare = json.loads(sys.stdin.readline())
exec(prepare, {})
for line in sys.stdin:
    script, arguments, output = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(written, 1)
        os.dup2(os.open(output + ".errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        sys.argv = ["-c", *arguments]
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        sys.exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class WarmPython:
    """A server whose forks run scripts; `prepare` is the code that it runs first."""

    def __init__(self, prepare: str) -> None:
        paths = [str(Path(__file__).parents[1]), str(Path(lightwam.__file__).parents[1])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=environment, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        atexit.register(self._server.kill)
        self._send(prepare)

    def run(self, script: str, *arguments: str | Path, timeout: float = 300) -> str:
        """What the script prints. AssertionError with its errors if it fails or takes longer than `timeout` seconds."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            self._send([script, [str(argument) for argument in arguments], str(output)])
            child = int(self._answer(timeout))
            status = self._answer(timeout)
            if not status:
                os.kill(child, signal.SIGKILL)
                status = f"{self._answer(timeout)} after {timeout} s"
            assert status == "0", f"exit status {status}\n{output.with_suffix('.errors').read_text()}"
            return output.read_text()

    def close(self) -> None:
        """End the server, which otherwise ends with this process."""
        self._server.kill()
        self._server.wait()

    def _send(self, job: object) -> None:
        assert self._server.stdin is not None
        left = memoryview((json.dumps(job) + "\n").encode())
        while left:
            left = left[self._server.stdin.write(left) :]

    def _answer(self, timeout: float) -> str:
        """The server's next line; "" if none comes in time."""
        assert self._server.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return ""
        line = self._server.stdout.readline().decode().strip()
        assert line, f"the server of scripts ended with {self._server.wait()}"
        return line


#: What scripts on the stand-in driver import, and kernels in the form that the interpreter executes.
_STANDIN = """
import importlib, pkgutil
import helpers.end_to_end, helpers.shells, lightwam.gpu.compile, lightwam.gpu.lower, lightwam.quantize.layers
from lightwam.kernels import ops
from lightwam.kernels.interpreter.patches import rewritten
from triton.runtime.jit import JITFunction
for found in pkgutil.iter_modules(ops.__path__, ops.__name__ + "."):
    for value in vars(importlib.import_module(found.name)).values():
        if isinstance(value, JITFunction):
            rewritten(value)
"""


@cache
def for_standin() -> WarmPython:
    """The server of this process for scripts that load the stand-in driver."""
    return WarmPython(_STANDIN)
