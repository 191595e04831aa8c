# SPDX-License-Identifier: Apache-2.0
"""Graphs of one op: each operand is made from the `state` input by a random linear, the output leaves as `actions`.

So any backend that reads engine files can run an op case beside the interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.op_cases import OpCase
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import Constant, Graph, Program, TensorType, Value
from lightwam.engine.memory_plan import plan_graph
from lightwam.export.layers import constant

STATE_WIDTH = 8
INSTRUCTION = "go"


def one_op_graph(case: OpCase, seed: int = 0) -> Graph:
    """The case as a planned graph: state [8] -> random operands -> the op -> actions."""
    rng = torch.Generator().manual_seed(seed)
    constants: dict[str, Constant] = {}
    act = ProgramBuilder(constants, "expert")
    state = act.bind("state", "f32", (1, STATE_WIDTH))
    inputs = {
        role: _operand(act, state, role, tensor, rng, case.rounded if case.on_grid and role == "x" else None)
        for role, tensor in case.inputs.items()
        if role not in ("x_scale", "x_zero")
    }
    if "x_scale" in case.inputs:
        inputs |= _quantize(act, inputs["x"], case.rounded)
    set_instruction = Program({}, (), {})
    if case.op in ("cross_attention", "cross_attention_folded"):
        set_instruction, bias = _key_bias(constants, case.context_rows)
        inputs |= {role: act.bind(role, tensor.dtype, tensor.shape, "instruction") for role, tensor in bias.items()}
    made = {role: _random_constant(f"op.{role}", role, tensor, rng) for role, tensor in case.constants.items()}
    shape = (4, 6) if case.op == "reshape" else None
    if case.op == "quantize_rows":
        rounded, identity = _quantize(act, inputs["x"], case.rounded), _identity(inputs["x"], case.rounded)
        y = act.emit("linear", "y", rounded, identity, activation="none")
    else:
        y = act.emit(case.op, "y", inputs, made, case.output, shape, "arena", **case.attrs)
    actions = y if y.type.dtype == "f32" else act.emit("cast", "y.f32", {"x": y})
    if len(actions.type.shape) != 2:
        actions = act.emit("reshape", "actions", {"x": actions}, {}, "f32", actions.type.matrix)
    program = act.finish({"actions": actions})
    rows = torch.randn(case.text_rows, 4, generator=rng)
    constants["context"] = constant("context", "f32", tuple(rows.shape), lambda: rows)
    policy = one_op_policy(actions.type.matrix, case.context_rows)
    return plan_graph(
        Graph(str(case), case.precision, policy,
              {"set_instruction": set_instruction, "act": program}, constants)
    )  # fmt: skip


def one_op_policy(actions: tuple[int, int], context_rows: int, **changes: Any) -> dict[str, Any]:
    """A policy section for a graph that is no policy."""
    return {
        "starts_at": "latents", "canvas": None, "cameras": [], "latent_shape": [1, 1, 1], "state_width": STATE_WIDTH,
        "action_width": actions[1], "horizon": actions[0], "replan": 1, "context_rows": context_rows, "text_width": 4,
        "prompt_template": "{task}", "text_encoder": None,
        "instructions": [{"text": INSTRUCTION, "context": "context"}], "normalizer": None, "gripper": None,
        "control_hz": 20.0, **changes,
    }  # fmt: skip


def _quantize(act: ProgramBuilder, x: Value, eight: DType) -> dict[str, Value]:
    """x [R, K] in eight bits, in the roles of a linear."""
    rows = x.type.matrix[0]
    outputs = {"y": TensorType(eight, x.type.shape), "scale": TensorType("f32", (rows,))}
    if eight == "i8":
        outputs["zero"] = TensorType("i32", (rows,))
    made = act.emit_many("quantize_rows", "quantize", {"x": x}, outputs, "arena", "quantized.")
    return {"x" if role == "y" else f"x_{role}": value for role, value in made.items()}


def _identity(x: Value, eight: DType) -> dict[str, Constant]:
    """Constants of the eight-bit linear that gives back what was quantised, in float."""
    width = x.type.matrix[1]
    return {
        "weight": constant("identity", eight, (width, width), lambda: torch.eye(width)),
        "weight_scale": constant("ones", "f32", (width,), lambda: torch.ones(width)),
    }


def _grid_rows(tensor: TensorType, rng: torch.Generator) -> Tensor:
    """Rows [R, K] of steps of 1/16, each from its own low end to 255 steps above, that no rounding error moves.

    The low ends make the zero points -128, 0, 127 and -28; every fifth row is zero. In f32 the inner numbers lie up to
    0.3 of a step off the grid.
    """
    rows, columns = tensor.matrix
    low = torch.tensor([-128, -255, 0, -100, 0])[torch.arange(rows) % 5][:, None]
    inner = low + torch.randint(1, 255, (rows, columns), generator=rng)
    x = inner + (0.6 * torch.rand(rows, columns, generator=rng) - 0.3 if tensor.dtype == "f32" else 0.0)
    x[:, :1] = low
    x[:, -1:] = low + 255 if columns > 1 else 255.0
    x[torch.arange(rows) % 5 == 4] = 0.0
    return x / 16


def _e4m3_rows(tensor: TensorType, rng: torch.Generator) -> Tensor:
    """Rows [R, K] of numbers of e4m3, over 16, from 28 on down: the scale is 1/16. Every fifth row is zero.

    In f32 the inner numbers lie up to 0.02 of themselves off the grid, where half a step is 0.03 at least.
    """
    rows, columns = tensor.matrix
    codes = torch.randint(0, 126, (rows, columns), generator=rng) + 128 * torch.randint(0, 2, (rows, 1), generator=rng)
    x = codes.to(torch.uint8).view(torch.float8_e4m3fn).to(torch.float32)
    if tensor.dtype in ("f32", "f8"):
        x *= 1 + 0.02 * (2 * torch.rand(rows, columns, generator=rng) - 1)
    x[:, :1] = 448.0
    x[torch.arange(rows) % 5 == 4] = 0.0
    return x / 16


def _operand(
    act: ProgramBuilder, state: Value, role: str, tensor: TensorType, rng: torch.Generator, grid: DType | None
) -> Value:
    """Random numbers of order one that depend on the state, or, on a grid of eight bits, the same for every state."""
    count = math.prod(tensor.shape)
    weight = torch.randn(count, STATE_WIDTH, generator=rng) / math.sqrt(STATE_WIDTH)
    bias = 0.5 * torch.randn(count, generator=rng)
    if grid is not None:
        made = _grid_rows(tensor, rng) if grid == "i8" else _e4m3_rows(tensor, rng)
        weight, bias = torch.zeros_like(weight), made.flatten()
    numbers = {
        "weight": constant(f"{role}.weight", "f32", (count, STATE_WIDTH), lambda: weight),
        "bias": constant(f"{role}.bias", "f32", (count,), lambda: bias),
    }
    x = act.emit("linear", f"{role}.flat", {"x": state}, numbers, activation="none")
    if x.type.shape != tensor.shape:
        x = act.emit("reshape", f"{role}.shaped", {"x": x}, {}, "f32", tensor.shape)
    return x if tensor.dtype in ("f32", "i8", "f8") else act.emit("cast", f"{role}.cast", {"x": x}, {}, tensor.dtype)


def _key_bias(constants: dict[str, Constant], length: int) -> tuple[Program, dict[str, TensorType]]:
    """A `set_instruction` that makes `key_bias` and `key_count` alone."""
    text = ProgramBuilder(constants, "text")
    outputs = {"key_bias": TensorType("f32", (length,)), "key_count": TensorType("i32", (1,))}
    text.bind("context", "f32", (length, 4))
    text_rows = text.bind("text_rows", "i32", (1,))
    text.emit_many("text_key_bias", "text_key_bias", {"text_rows": text_rows}, outputs, "instruction")
    return text.finish({}, also_needed=outputs), outputs


def _random_constant(name: str, role: str, tensor: TensorType, rng: torch.Generator) -> Constant:
    numbers = _constant_numbers(role, tensor, rng)
    return constant(name, tensor.dtype, tensor.shape, lambda: numbers)


def _constant_numbers(role: str, tensor: TensorType, rng: torch.Generator) -> Tensor:
    shape = tensor.shape
    if tensor.dtype == "i8":
        whole = torch.randint(-127, 128, shape, generator=rng)
        whole.view(-1)[0], whole.view(-1)[-1] = -127, 127
        return whole
    noise = torch.randn(shape, generator=rng)
    if tensor.dtype == "f8":
        return (100 * noise).clamp(-448, 448)
    if role == "weight_scale":
        return 0.01 * (noise.abs() + 0.1)
    if role in ("cos", "sin"):
        angle = 3.0 * torch.randn(shape, generator=torch.Generator().manual_seed(7))
        return angle.cos() if role == "cos" else angle.sin()
    if role == "merge":
        return noise.softmax(-1)
    if role == "weight" and len(shape) == 1:
        return 1 + 0.1 * noise
    if role in ("weight", "scores"):
        return noise / math.sqrt(math.prod(shape[1:]))
    return noise


def case_state(seed: int = 0) -> Any:
    """A state [8] for `one_op_graph`."""
    return np.random.default_rng(seed).standard_normal(STATE_WIDTH).astype(np.float32)
