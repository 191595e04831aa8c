# SPDX-License-Identifier: Apache-2.0
"""One variant (a task, one of its tactics, a target) to machine code, ahead of time: no GPU, no driver, no toolkit.

The compiler and the assemblers are Triton's own. What is made depends on the variant and on Triton's version only:
no line numbers or paths are in it, and settings of Triton in the environment are dropped (`clean_environment`).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from lightwam.kernels.formats import POINTERS
from lightwam.kernels.targets import TARGETS
from lightwam.kernels.task import Argument, Tactic, Task, kernel_module, kernel_parameters

FORMAT = 1  # of keys: another number makes all of them new
POINTER_ALIGNMENT = 16  # bytes; of every address in a plan
_WARP = 32
#: Settings of the compiler and its tools that the environment might hold, beside those that begin with TRITON_.
_SETTINGS = (
    "PTXAS_OPTIONS", "DISABLE_PTXAS_OPT", "NVPTX_ENABLE_DUMP", "MLIR_ENABLE_DUMP", "LLVM_IR_ENABLE_DUMP",
    "DISABLE_LLVM_OPT", "USE_IR_LOC", "LLVM_EXTRACT_DI_LOCAL_VARIABLES",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What is compiled: a task by one of its tactics for a target."""

    task: Task
    tactic: Tactic
    target: str

    @property
    def name(self) -> str:
        """For people: kernel, target, tactic."""
        constants = ", ".join(f"{name} {value}" for name, value in self.tactic.constants.items())
        warps_and_stages = f"{self.tactic.num_warps} warps, {self.tactic.num_stages} stages"
        return f"{self.task.kernel} for {self.target} ({constants}, {warps_and_stages})"


@dataclass(frozen=True)
class Code:
    """Machine code of a variant: one cubin with one entry. Bytes: `shared` a program, `stack` (spills) a thread."""

    cubin: bytes
    entry: str
    threads: int
    shared: int
    registers: int
    stack: int


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without those that change what Triton makes."""
    return {k: v for k, v in environment.items() if not k.startswith("TRITON_") and k not in _SETTINGS}


def variant_key(variant: Variant) -> str:
    """What the machine code depends on, as 64 hexadecimal digits: variants with the same key have the same code."""
    bound = kernel_parameters(variant.task, variant.tactic)
    parameters = {k: v.dtype if isinstance(v, Argument) else repr(v) for k, v in bound.items()}
    tactic = variant.tactic
    parts = [FORMAT, triton.__version__, variant.target, variant.task.kernel, source_hash(variant.task.kernel)]
    text = json.dumps([*parts, list(parameters.items()), tactic.num_warps, tactic.num_stages])
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def source_hash(kernel: str) -> str:
    """Of the source of a kernel and of all that it calls in this package, wherever it stands in its file."""
    functions: dict[str, str] = {}
    _collect(kernel_module(Task(kernel, {}, (), 0)).kernel, functions)
    return hashlib.sha256(json.dumps(sorted(functions.items())).encode()).hexdigest()


def _collect(function: JITFunction, found: dict[str, str]) -> None:
    """The function's source and the constants that it uses, and those of the functions that it calls."""
    name = f"{function.fn.__module__}.{function.fn.__qualname__}"
    if name in found:
        return
    found[name] = function.src
    for used, value in _globals_used(function):
        if isinstance(value, JITFunction):
            if value.fn.__module__.startswith("lightwam."):
                _collect(value, found)
        elif not isinstance(value, ModuleType) and not callable(value):
            found[f"{name}: {used}"] = repr(value)


def _globals_used(function: JITFunction) -> Iterator[tuple[str, Any]]:
    """Global names in the function's source, and names in modules of this package that it reads."""
    names = function.fn.__code__.co_names
    namespace = function.fn.__globals__
    for name in names:
        value = namespace.get(name)
        if isinstance(value, ModuleType) and value.__name__.startswith("lightwam."):
            yield from ((f"{name}.{member}", getattr(value, member)) for member in names if hasattr(value, member))
        elif value is not None:
            yield name, value


def compile_variant(variant: Variant) -> Code:
    """Compile in this process (one in a clean environment that compiles nothing else at the same time).

    Raises whatever the compiler raises, and ValueError for code that a launch plan cannot hold.
    """
    knobs.compilation.disable_line_info = True
    knobs.compilation.always_compile = True
    knobs.compilation.store_binary_only = True
    architecture = TARGETS[variant.target].architecture
    tactic = variant.tactic
    options = {"num_warps": tactic.num_warps, "num_stages": tactic.num_stages, "enable_fp_fusion": True}
    with tempfile.TemporaryDirectory() as folder:
        knobs.cache.dir = folder
        compiled = triton.compile(_source(variant), target=GPUTarget("cuda", architecture, _WARP), options=options)
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise ValueError(f"{variant.name}: needs scratch memory, which a launch plan does not give")
    if getattr(metadata, "num_ctas", 1) != 1 or getattr(metadata, "launch_cooperative_grid", False):
        raise ValueError(f"{variant.name}: needs clusters or a cooperative launch, which a launch plan has not")
    return code_of(compiled)


def one_line(error: Exception) -> str:
    """What a compiler raised: its type and the last line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


def code_of(compiled: CompiledKernel) -> Code:
    """What Triton compiled, with the registers and the stack that its machine code needs."""
    metadata, cubin = compiled.metadata, compiled.asm["cubin"]
    registers, stack = _resources(cubin)
    return Code(cubin, metadata.name, _WARP * metadata.num_warps, metadata.shared, registers, stack)


def _source(variant: Variant) -> ASTSource:
    """The kernel with its constants, every pointer aligned."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, (name, bound) in enumerate(kernel_parameters(variant.task, variant.tactic).items()):
        if isinstance(bound, Argument):
            signature[name] = POINTERS[bound.dtype]
            attributes[(index,)] = [["tt.divisibility", POINTER_ALIGNMENT]]
        else:
            signature[name] = "constexpr"
            constants[(index,)] = bound
    return ASTSource(kernel_module(variant.task).kernel, signature, constants, attributes)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack a thread. Few registers can hide spills; the stack shows them."""
    tool = Path(inspect.getfile(triton)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump reports no resources: {text.strip()!r}")
    registers, stack, local = (int(number) for number in found.groups())
    return registers, stack + local
