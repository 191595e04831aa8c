# SPDX-License-Identifier: Apache-2.0
"""A GPU from Python through its driver alone: memory, machine code, launches. For checks, not for robots."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_STAGING_BYTES = 4 << 20
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute
_MAX_SHARED = 8  # CUfunction_attribute
_DEFAULT_SHARED = 48 << 10  # dynamic shared memory that needs no attribute
_BY_VALUE: dict[str, tuple[Any, ...]] = {
    "cuMemAlloc_v2": (ctypes.c_void_p, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemHostAlloc": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (ctypes.c_void_p,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
    "cuMemcpyDtoHAsync_v2": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
    "cuStreamCreateWithPriority": (ctypes.c_void_p, ctypes.c_uint, ctypes.c_int),
    "cuModuleGetFunction": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    "cuFuncSetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "cuLaunchKernel": (ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
}


class GpuError(Exception):
    """There is no GPU to use, or its driver reports an error. One line."""


@dataclass(frozen=True)
class GpuFacts:
    """The first GPU. `target`: as lightwam compile names it ("sm_90"). `driver`: the CUDA version that it supports."""

    name: str
    target: str
    memory_bytes: int
    integrated: bool
    driver: str


@dataclass(frozen=True)
class Function:
    """A kernel that is loaded, and how to launch it."""

    handle: int
    grid: tuple[int, int, int]
    threads: int
    shared: int


class Gpu:
    """The first GPU's primary context and one stream; everything made here is given back at the end of the `with`."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise GpuError(f"no GPU driver ({error})") from None
        self._exit = ExitStack()
        self._failed = False
        self._modules: dict[bytes, int] = {}
        self._allocations: set[int] = set()
        self._call("cuInit", ctypes.c_uint(0))
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise GpuError("the driver finds no GPU")
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))

    def __enter__(self) -> Gpu:
        self._context = self._made("cuDevicePrimaryCtxRetain", self._device)
        self._exit.callback(self._call, "cuDevicePrimaryCtxRelease_v2", self._device)
        self._call("cuCtxPushCurrent_v2", self._context)
        self._exit.callback(self._made, "cuCtxPopCurrent_v2")
        self._stream = self._made("cuStreamCreateWithPriority", 1, 0)  # does not wait for other streams
        self._exit.callback(self._call, "cuStreamDestroy_v2", self._stream)
        staging = self._made("cuMemHostAlloc", _STAGING_BYTES, 0)
        self._exit.callback(self._call, "cuMemFreeHost", staging)
        assert staging.value is not None
        self._staging = staging.value
        self._exit.callback(self._free_all)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._failed
        try:
            self._exit.close()
        except GpuError:
            if not failed:
                raise  # else the first error says more

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        if name in _BY_VALUE:
            function.argtypes = _BY_VALUE[name]
        result = function(*arguments)
        if result != 0:
            self._failed = True
            text = ctypes.c_char_p()
            known = self._library.cuGetErrorName(ctypes.c_int(result), ctypes.byref(text)) == 0 and text.value
            raise GpuError(f"{name}: {text.value.decode() if known and text.value else f'error {result}'}")

    def _made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """The handle that a function writes through its first parameter."""
        handle = ctypes.c_void_p()
        self._call(name, ctypes.addressof(handle) if name in _BY_VALUE else ctypes.byref(handle), *arguments)
        return handle

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), self._device)
        return value.value

    def facts(self) -> GpuFacts:
        """What the GPU is; within the `with`."""
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), self._device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        target = f"sm_{self._attribute(_MAJOR)}{self._attribute(_MINOR)}"
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        memory = self.memory()[1]
        return GpuFacts(name.value.decode(), target, memory, bool(self._attribute(_INTEGRATED)), driver)

    def memory(self) -> tuple[int, int]:
        """Free and whole device memory, bytes."""
        free, whole = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(whole))
        return free.value, whole.value

    def allocate(self, num_bytes: int) -> int:
        """The address of device memory that lives until the end of the `with`, or until `free`."""
        address = self._made("cuMemAlloc_v2", max(num_bytes, 1)).value
        assert address is not None
        self._allocations.add(address)
        return address

    def free(self, address: int) -> None:
        self._allocations.discard(address)
        self._call("cuMemFree_v2", address)

    def _free_all(self) -> None:
        for address in list(self._allocations):
            self.free(address)

    def upload(self, address: int, contents: Any) -> None:
        """Copy a C-contiguous array (or bytes) to the device, through page-locked memory, and wait."""
        source = memoryview(contents).cast("B")
        for start in range(0, len(source), _STAGING_BYTES):
            part = source[start : start + _STAGING_BYTES]
            (ctypes.c_char * len(part)).from_address(self._staging)[:] = bytes(part)
            self._call("cuMemcpyHtoDAsync_v2", address + start, self._staging, len(part), self._stream)
            self.wait()

    def download(self, address: int, num_bytes: int) -> bytes:
        """Bytes of device memory, after all work that was requested."""
        parts = []
        for start in range(0, num_bytes, _STAGING_BYTES):
            size = min(_STAGING_BYTES, num_bytes - start)
            self._call("cuMemcpyDtoHAsync_v2", self._staging, address + start, size, self._stream)
            self.wait()
            parts.append(ctypes.string_at(self._staging, size))
        return b"".join(parts)

    def wait(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def load(self, cubin: bytes, entry: str, grid: Sequence[int], threads: int, shared: int) -> Function:
        """The entry of a cubin, ready to launch."""
        if cubin not in self._modules:
            module = self._made("cuModuleLoadData", ctypes.c_char_p(cubin))
            self._exit.callback(self._call, "cuModuleUnload", module)
            assert module.value is not None
            self._modules[cubin] = module.value
        handle = self._made("cuModuleGetFunction", self._modules[cubin], entry.encode()).value
        assert handle is not None
        if shared > _DEFAULT_SHARED:
            self._call("cuFuncSetAttribute", handle, _MAX_SHARED, shared)
        x, y, z = (*grid, 1, 1)[:3]
        return Function(handle, (x, y, z), threads, shared)

    def launch(self, function: Function, addresses: Sequence[int]) -> None:
        """Put a launch on the stream: an address an argument, then the two null pointers of a plan."""
        values = (ctypes.c_uint64 * (len(addresses) + 2))(*addresses, 0, 0)
        base = ctypes.addressof(values)
        parameters = (ctypes.c_void_p * len(values))(*(base + 8 * index for index in range(len(values))))
        sizes = (*function.grid, function.threads, 1, 1, function.shared)
        self._call("cuLaunchKernel", function.handle, *sizes, self._stream, ctypes.addressof(parameters), None)
