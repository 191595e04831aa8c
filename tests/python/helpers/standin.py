# SPDX-License-Identifier: Apache-2.0
"""`Policy(device="cuda")` without a GPU: the stand-in driver (tests/standin), kernels computed by Python.

A process that loads the stand-in finds it as the driver from then on, so tests use it in a subprocess (`run_script`).
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.warm_python import for_standin

if TYPE_CHECKING:
    from lightwam.gpu.compile import CompiledPlan

ROOT = Path(__file__).parents[3]
STANDIN = ("calls", "driver", "driver_streams", "state", "streams")
SOURCES = (*(f"tests/standin/{part}.cpp" for part in STANDIN), "csrc/cuda/cubin.cpp")


#: What `make develop` built.
BUILT = ROOT / "build/test/tests/standin/standin.so"


def build_standin(folder: Path) -> Path:
    """The stand-in: a copy of what `make develop` built from these sources, else compiled; the library's path."""
    library = folder / "standin.so"
    sources = [path for room in ("tests/standin", "csrc") for path in (ROOT / room).rglob("*") if path.is_file()]
    if BUILT.exists() and BUILT.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return Path(shutil.copy(BUILT, library))
    flags = ["-std=c++20", "-O0", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
    folders = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    compiled = [str(ROOT / source) for source in SOURCES]
    subprocess.run(["c++", *flags, *folders, "-o", str(library), *compiled], check=True, timeout=300)
    return library


def run_script(script: str, library: Path, *arguments: str | Path, timeout: float = 300) -> str:
    """Runs Python code that finds `library` as sys.argv[1] and `arguments` after it, in a process; its output.

    AssertionError with its errors if it fails.
    """
    return for_standin().run(script, library, *arguments, timeout=timeout)


class _Launch(ctypes.Structure):
    """standin_launch of tests/standin/standin.h."""

    _fields_ = (
        ("cubin", ctypes.POINTER(ctypes.c_uint8)),
        ("cubin_bytes", ctypes.c_size_t),
        ("entry", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared", ctypes.c_uint32),
        ("arguments", ctypes.POINTER(ctypes.c_uint64)),
        ("argument_count", ctypes.c_size_t),
    )


_LAUNCHER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Launch))


@dataclass(frozen=True)
class Launch:
    """A launch that the executor requested. `addresses`: without the two of scratch memory."""

    cubin_sha256: str
    entry: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    addresses: tuple[int, ...]


Kernel = Callable[[Launch], None]


OLDEST_FIRST, NEWEST_FIRST = 0, 1  # other orders are random ones


class Standin:
    """The stand-in driver of this process. Load it before the first policy on a GPU."""

    def __init__(self, library: Path | str) -> None:
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name in ("calls", "live", "leaked", "peak_device_bytes", "bytes_from"):
            getattr(self._library, f"standin_{name}").restype = ctypes.c_uint64
        self._library.standin_misuse.restype = ctypes.c_char_p
        self._library.standin_bytes_from.argtypes = [ctypes.c_uint64]
        self._library.standin_set_device.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
        self._callback: object = None
        self.failures: list[str] = []  # tracebacks of kernels

    def set_device(self, arch: int, *, count: int = 1, integrated: bool = False, memory_bytes: int = 8 << 30) -> None:
        """`count` GPUs of compute capability arch / 10."""
        self._library.standin_set_device(count, arch, int(integrated), memory_bytes)

    def set_order(self, order: int) -> None:
        """What comes first of work that may run in any order."""
        self._library.standin_set_order(order)

    def set_kernel(self, kernel: Kernel) -> None:
        """Computes every launch from now on. An exception is a launch that failed on the device."""

        def call(_user: object, pointer: ctypes._Pointer[_Launch]) -> int:
            try:
                kernel(_launch_of(pointer.contents))
            except BaseException:  # nothing may pass through the driver
                self.failures.append(traceback.format_exc())
                return 1
            return 0

        self._callback = _LAUNCHER(call)
        self._library.standin_set_launcher(self._callback, None)

    def fail(self, function: str, nth: int, result: int) -> None:
        """The nth call from now of a driver function returns an error."""
        self._library.standin_fail(function.encode(), nth, result)

    def advance_clock(self, seconds: float) -> None:
        """What a kernel calls that is to seem slow."""
        self._library.standin_advance_clock(ctypes.c_double(seconds))

    def calls(self, function: str) -> int:
        return int(self._library.standin_calls(function.encode()))

    def bytes_from(self, address: int) -> int:
        """Bytes from an address to the end of its allocation; 0 for no memory."""
        return int(self._library.standin_bytes_from(address))

    @property
    def peak_device_bytes(self) -> int:
        return int(self._library.standin_peak_device_bytes())

    @property
    def misuse(self) -> str:
        """What a real driver might have let pass; empty when nothing."""
        return bytes(self._library.standin_misuse()).decode()

    @property
    def leaked(self) -> int:
        return int(self._library.standin_leaked())


def _launch_of(raw: _Launch) -> Launch:
    cubin = ctypes.string_at(raw.cubin, raw.cubin_bytes)
    *addresses, first_scratch, second_scratch = (raw.arguments[i] for i in range(raw.argument_count))
    if first_scratch or second_scratch:
        raise ValueError(f"{raw.entry.decode()}: scratch memory was passed")
    grid = (raw.grid[0], raw.grid[1], raw.grid[2])
    digest = hashlib.sha256(cubin).hexdigest()
    return Launch(digest, raw.entry.decode(), grid, raw.threads, raw.shared, tuple(addresses))


#: (SHA-256 of the cubin, entry) -> task, tactic: entries alone are not unique.
Compiled = Mapping[tuple[str, str], tuple["object", "object"]]


def kernels_of(compiled: CompiledPlan) -> Compiled:
    """What each cubin of a plan computes."""
    return {
        (hashlib.sha256(tactic.code.cubin).hexdigest(), tactic.code.entry): (result.task, tactic.tactic)
        for row in compiled.results
        for result in row.values()
        for tactic in result.kept
    }


def interpreted(standin: Standin, compiled: Compiled) -> Kernel:
    """Launches computed by Triton's interpreter, with exactly the addresses and the grid that the executor passed.

    Each argument must lie in one allocation; frames reach from their address to the end of theirs. A launch that reads
    the same bytes as one before writes what that one wrote.
    """
    from helpers.fast_interpreter import speed_up
    from lightwam.kernels.interpreter import interpret
    from lightwam.kernels.task import Tactic, Task, kernel_module

    speed_up()
    written: dict[tuple[str, ...], list[bytes]] = {}

    def kernel(launch: Launch) -> None:
        task, tactic = compiled[launch.cubin_sha256, launch.entry]
        assert isinstance(task, Task) and isinstance(tactic, Tactic)
        expected = tuple(kernel_module(task).grid(task, tactic))
        if (*expected, 1, 1)[:3] != launch.grid or launch.threads != 32 * tactic.num_warps:
            raise ValueError(f"{launch.entry}: grid {launch.grid} of {launch.threads} threads; expected {expected}")
        extents: dict[str, int] = {}
        for argument, address in zip(task.arguments, launch.addresses, strict=True):
            present = standin.bytes_from(address)
            extents[argument.name] = present if argument.num_bytes is None else argument.num_bytes
            if extents[argument.name] > present:
                raise ValueError(f"{launch.entry}: {argument.name} has {argument.num_bytes} bytes, {present} are there")
        places = [(a.mode, at, extents[a.name]) for a, at in zip(task.arguments, launch.addresses, strict=True)]
        reads = [hashlib.sha256(ctypes.string_at(at, size)).hexdigest() for mode, at, size in places if mode == "r"]
        key = (launch.cubin_sha256, launch.entry, *reads)
        if key not in written:
            interpret.run(task, tactic, launch.addresses, extents)
            written[key] = [ctypes.string_at(at, size) for mode, at, size in places if mode == "w"]
        else:
            for (_, at, size), contents in zip((p for p in places if p[0] == "w"), written[key], strict=True):
                ctypes.memmove(at, contents, size)

    return kernel
