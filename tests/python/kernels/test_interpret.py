# SPDX-License-Identifier: Apache-2.0
"""The patched interpreter: bfloat16 beside NumPy, helpers, accesses that leave their argument, compiling beside it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from helpers.kernel_runs import run_arrays
from lightwam.kernels.formats import bfloat16_bits, bfloat16_values, decode, e4m3_bits, e4m3_values, encode
from lightwam.kernels.interpreter.interpret import run
from lightwam.kernels.interpreter.patches import LaunchError
from lightwam.kernels.ops import elementwise
from lightwam.kernels.task import Argument, DType, Tactic, Task

ROWS, DEPTH, COLUMNS = 6, 32, 16
TACTIC = Tactic({"PROGRAMS": 1})


@triton.jit
def _half_up(x, amount: tl.constexpr):
    return x * 0.5 + amount


@triton.jit
def kernel(
    a,
    b,
    optional,
    y,
    z,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    SHIFT: tl.constexpr,
    WIDE: tl.constexpr,
    PROGRAMS: tl.constexpr,  # all of them compute the same
):
    row, inner, column = tl.arange(0, 8), tl.arange(0, DEPTH), tl.arange(0, COLUMNS)
    inside = (row < ROWS)[:, None]
    left = tl.load(a + row[:, None] * DEPTH + inner[None, :] + SHIFT, mask=inside, other=0.0)
    right = tl.load(b + inner[:, None] * COLUMNS + column[None, :])
    product = tl.dot(left, right, input_precision=PRECISION)
    if optional is not None:
        product += tl.load(optional + column)[None, :]
    place = row[:, None] * COLUMNS + column[None, :]
    tl.store(y + place, _half_up(product, 1.0).to(y.dtype.element_ty), mask=inside | WIDE)
    squares = tl.sum((left * left).to(tl.float32), axis=1) + tl.max(-tl.abs(left), axis=1)
    tl.store(z + row, squares, mask=row < ROWS)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (int(str(tactic.constants["PROGRAMS"])), 1, 1)


def _task(dtype: DType, *, optional: bool = False, y_rows: int = ROWS, **constants: int | bool | str) -> Task:
    arguments = [Argument("a", "r", dtype, (ROWS, DEPTH)), Argument("b", "r", dtype, (DEPTH, COLUMNS))]
    arguments += [Argument("optional", "r", "f32", (COLUMNS,))] if optional else []
    arguments += [Argument("y", "w", dtype, (y_rows, COLUMNS)), Argument("z", "w", "f32", (ROWS,))]
    numbers = {"ROWS": ROWS, "DEPTH": DEPTH, "COLUMNS": COLUMNS, "PRECISION": "ieee", "SHIFT": 0, "WIDE": False}
    return Task("probe", {**numbers, **constants}, tuple(arguments), flops=0)


@pytest.fixture(autouse=True)
def _this_module_as_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightwam.kernels.ops.probe", sys.modules[__name__])


def _inputs(dtype: DType) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(7)
    shapes = {"a": (ROWS, DEPTH), "b": (DEPTH, COLUMNS)}
    arrays = {name: encode(generator.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return {**arrays, "optional": generator.standard_normal(COLUMNS).astype(np.float32)}


def test_bfloat16_of_every_kind_of_float_is_torchs() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | np.uint32(0x8000)
    values = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(bfloat16_bits(values)[~nan], expected.view(torch.uint16).numpy()[~nan])
    assert np.isnan(bfloat16_values(bfloat16_bits(values))[nan]).all()
    np.testing.assert_array_equal(bfloat16_values(bfloat16_bits(values))[~nan], expected.float().numpy()[~nan])


def _e4m3_by_torch(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """As the hardware's conversion saturates, and torch's gives NaN beyond 448: clamped first."""
    return torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def _floats_around_e4m3() -> np.ndarray:  # type: ignore[type-arg]
    """Random patterns of float32, every number of e4m3, the ties between them, and the floats beside the ties."""
    generator = np.random.default_rng(0)
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    positive = np.unique(numbers[numbers >= 0])
    ties = ((positive[1:] + positive[:-1]) / 2).view(np.uint32)
    scaled = generator.standard_normal(100_000).astype(np.float32) * np.float32(100)
    small = scaled * np.float32(2.0**-14)
    bits = generator.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    near = np.concatenate([ties, ties - 1, ties + 1]).view(np.float32)
    return np.concatenate([numbers, near, -near, scaled, small, bits])


def test_e4m3_of_every_kind_of_float_is_torchs() -> None:
    values = _floats_around_e4m3()
    nan = np.isnan(values)
    np.testing.assert_array_equal(e4m3_bits(values)[~nan], _e4m3_by_torch(values)[~nan])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        e4m3_values(every), torch.from_numpy(every.copy()).view(torch.float8_e4m3fn).float().numpy()
    )
    assert np.isnan(e4m3_values(e4m3_bits(values))[nan]).all()


@pytest.mark.parametrize("source", ["f32", "bf16"])
def test_kernels_round_to_e4m3_and_back_as_torch_does(source: DType) -> None:
    """Through the interpreter, whose own casts to e4m3 truncate and do not saturate."""
    values = _floats_around_e4m3()
    values = values[np.isfinite(values)][: 16 * 12_000].reshape(16, -1)
    count = values.shape[1]
    stored = encode(values, source)
    task = elementwise.task("concat", 16, [count], x=[source], y="f8")
    back = elementwise.task("concat", 16, [count], x=["f8"], y=source)
    made = run_arrays(task, elementwise.tactics(task, "interpreter")[0], {"x0": stored})["y"]
    np.testing.assert_array_equal(made, _e4m3_by_torch(decode(stored, source).astype(np.float32)))
    again = run_arrays(back, elementwise.tactics(back, "interpreter")[0], {"x0": made})["y"]
    np.testing.assert_array_equal(decode(again, source), e4m3_values(made))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("optional", [False, True])
def test_products_helpers_and_casts(dtype: DType, optional: bool) -> None:
    """bf16: exact products, f32 sums, one rounding; the element-wise square rounds to bf16 itself, as declared."""
    inputs = _inputs(dtype)
    result = run_arrays(_task(dtype, optional=optional), TACTIC, inputs)
    a, b = decode(inputs["a"], dtype), decode(inputs["b"], dtype)
    y = (a @ b + (inputs["optional"] if optional else 0.0)) * 0.5 + 1.0
    step = {"f32": 2.0**-23, "f16": 2.0**-11, "bf16": 2.0**-8}[dtype]
    assert (np.abs(decode(result["y"], dtype) - y) <= step * np.abs(y) + 1e-6 * np.abs(y).max()).all()
    squares = decode(encode(a * a, dtype), dtype).sum(1) - np.abs(a).min(1)
    np.testing.assert_allclose(result["z"], squares, rtol=1e-5, atol=1e-5)


def test_tensor_cores_short_mantissa_is_refused_for_float32() -> None:
    with pytest.raises(LaunchError, match='kernel probe: a float32 matmul needs input_precision="ieee"'):
        run_arrays(_task("f32", PRECISION="tf32"), TACTIC, _inputs("f32"))


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_a_read_outside_of_its_argument_is_named(shift: int) -> None:
    with pytest.raises(LaunchError, match=r"kernel probe: reads bytes .* of a, which has 768"):
        run_arrays(_task("f32", SHIFT=shift), TACTIC, _inputs("f32"))


def test_a_write_outside_of_its_argument_is_named() -> None:
    with pytest.raises(LaunchError, match="kernel probe: writes bytes 0 to 512 of y, which has 384"):
        run_arrays(_task("f32", WIDE=True), TACTIC, _inputs("f32"))


def test_every_element_is_written_exactly_once() -> None:
    with pytest.raises(LaunchError, match=r"16 of 112 elements of y not written exactly once; element 96 .* 0 times"):
        run_arrays(_task("f32", y_rows=ROWS + 1), TACTIC, _inputs("f32"))
    with pytest.raises(LaunchError, match=r"96 of 96 elements of y not written exactly once; element 0 .* 2 times"):
        run_arrays(_task("f32"), Tactic({"PROGRAMS": 2}), _inputs("f32"))


def test_modes_are_held() -> None:
    task = _task("f32")
    swapped = tuple(Argument(a.name, "w" if a.mode == "r" else "r", a.dtype, a.shape) for a in task.arguments)
    arrays = {"y": np.zeros((ROWS, COLUMNS), np.float32), "z": np.zeros(ROWS, np.float32)}
    with pytest.raises(LaunchError, match='kernel probe: reads a, an argument of mode "w"'):
        run_arrays(Task("probe", task.constants, swapped, flops=0), TACTIC, arrays)


def test_raw_addresses_and_arguments_that_do_not_fit() -> None:
    inputs, task = _inputs("f32"), _task("f32")
    y, z = np.zeros((ROWS, COLUMNS), np.float32), np.zeros(ROWS, np.float32)
    run(task, TACTIC, [array.ctypes.data for array in (inputs["a"], inputs["b"], y, z)])
    np.testing.assert_array_equal(y, run_arrays(task, TACTIC, inputs)["y"])
    with pytest.raises(ValueError, match="3 addresses for 4 arguments"):
        run(task, TACTIC, [0, 0, 0])
    with pytest.raises(ValueError, match="constant SHIFT is missing"):
        numbers = {name: value for name, value in task.constants.items() if name != "SHIFT"}
        run_arrays(Task("probe", numbers, task.arguments, flops=0), TACTIC, inputs)
    with pytest.raises(ValueError, match="no parameter for BLOCK"):
        run_arrays(task, Tactic({"PROGRAMS": 1, "BLOCK": 4}), inputs)
    with pytest.raises(ValueError, match="arguments are not in the order"):
        run_arrays(Task("probe", task.constants, task.arguments[::-1], flops=0), TACTIC, inputs)


def test_a_process_that_interpreted_still_compiles() -> None:
    """The language is as it was after a run, also after a failed one. In a process of its own: compilers may abort."""
    script = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import numpy as np
from lightwam.kernels.formats import POINTERS
from helpers.kernel_runs import run_arrays
from lightwam.kernels.interpreter.patches import LaunchError
from lightwam.kernels.ops import elementwise
from lightwam.kernels.task import Argument, Task, kernel_parameters
task = elementwise.task("add", 4, [8, 8], x=["f32", "bf16"], y="bf16")
tactic = elementwise.tactics(task, "sm_87")[0]
arrays = {"x0": np.ones((4, 8), np.float32), "x1": np.zeros((4, 8), np.uint16)}
first = run_arrays(task, tactic, arrays)
shorter = Task(task.kernel, {**task.constants, "ROWS": 9}, task.arguments, flops=0)
try:
    run_arrays(shorter, tactic, arrays)
except LaunchError as error:
    print(error)
bound = kernel_parameters(task, tactic)
signature = {n: POINTERS[v.dtype] if isinstance(v, Argument) else "constexpr" for n, v in bound.items()}
constants = {(i,): v for i, (n, v) in enumerate(bound.items()) if signature[n] == "constexpr"}
source = ASTSource(elementwise.kernel, signature, constants, {})
binary = triton.compile(source, target=GPUTarget("cuda", 87, 32), options={"num_warps": 4})
assert len(binary.asm["cubin"]) > 1000
assert np.array_equal(first["y"], run_arrays(task, tactic, arrays)["y"])
print("compiled")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "kernel elementwise: reads bytes 0 to 288 of x0, which has 128\ncompiled\n"
