# SPDX-License-Identifier: Apache-2.0
"""The graph in plain PyTorch on the CPU: the oracle for every backend.

It computes in float64 (or float32) and rounds a value to bfloat16 or float16 where the graph declares it so, unless
told not to (`rounds`). Nothing else is rounded but `scale_shift_clamp` and the scales of `quantize_rows`, to float32;
integers are exact. Symbols as in `lightwam.engine.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightwam.engine.dtypes import Array, DType, decode
from lightwam.engine.graph import Attr, Graph, Op
from lightwam.engine.images import compose_canvas
from lightwam.errors import ExportError, InstructionError
from lightwam.model.text import word_buckets


@dataclass
class Call:
    """One op with its operands as tensors. `declared` holds the output shapes."""

    tensors: Mapping[str, Tensor]
    attrs: Mapping[str, Attr]
    declared: Mapping[str, tuple[int, ...]]

    def __getitem__(self, role: str) -> Tensor:
        return self.tensors[role]

    def get(self, role: str) -> Tensor | None:
        return self.tensors.get(role)

    def int(self, attr: str) -> int:
        return int(self.attrs[attr])  # type: ignore[arg-type]

    def float(self, attr: str) -> float:
        return float(self.attrs[attr])  # type: ignore[arg-type]

    def activate(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[str(self.attrs["activation"])](x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def _nchw_to_nhwc(c: Call) -> Tensor:
    return c["x"].permute(1, 2, 0)


def _conv2d(c: Call) -> Tensor:
    padding = c.attrs["padding"]
    assert isinstance(padding, tuple)
    top, left, bottom, right = padding
    x = F.pad(c["x"].permute(2, 0, 1)[None], (left, right, top, bottom))
    y = F.conv2d(x, c["weight"].permute(0, 3, 1, 2), c.get("bias"), stride=c.int("stride"))
    return _add_residual(c, c.activate(y[0].permute(1, 2, 0)))


def _add_residual(c: Call, y: Tensor) -> Tensor:
    residual = c.get("residual")
    return y if residual is None else y + residual


_HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}
LARGEST_F8 = 448.0
SMALLEST_SCALE = 2.0**-126  # the smallest normal float32


def quantize_rows(x: Tensor, dtype: DType = "i8") -> dict[str, Tensor]:
    """Rows [R, K] as y int8 [R, K], scale float32 [R], zero int32 [R]: section 4.1 of docs/reference/engine-format.md.

    With "f8": y float8_e4m3fn [R, K], scale float32 [R]. A row with NaN or infinity has a scale that is not finite.
    """
    rows = x.to(torch.float32).flatten(0, -2)
    if dtype == "f8":
        scale = _normal(rows.abs().amax(-1) / LARGEST_F8)
        held = (rows / scale[:, None]).clamp(-LARGEST_F8, LARGEST_F8)
        return {"y": held.to(torch.float8_e4m3fn).reshape(x.shape), "scale": scale}
    zeros = rows.new_zeros(rows.shape[0])
    low, high = torch.minimum(zeros, rows.amin(-1)), torch.maximum(zeros, rows.amax(-1))
    scale = _normal((high - low) / 255)
    zero = _to_int8_range(-128 - low / scale)
    y = _to_int8_range((rows / scale[:, None]).round().nan_to_num(0.0) + zero[:, None])
    return {"y": y.to(torch.int8).reshape(x.shape), "scale": scale, "zero": zero.to(torch.int32)}


def _normal(scale: Tensor) -> Tensor:
    """1 in the place of scales that are no normal numbers."""
    return torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)


def _to_int8_range(x: Tensor) -> Tensor:
    return x.nan_to_num(0.0).round().clamp(-128, 127)


def quantised_product(x: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """x_scale[r] weight_scale[n] sum_k (x[r, k] - x_zero[r]) weight[n, k] in float64, where the sums are exact.

    x int8 [R, K] (or of e4m3, without zero), scale [R], zero [R], weight int8 [N, K] (or numbers of e4m3), weight_scale
    [N]; returns float64 [R, N].
    """
    whole = x.to(torch.float64).flatten(0, -2)
    if zero is not None:
        whole = whole - zero.to(torch.float64)[:, None]
    sums = F.linear(whole, weight.to(torch.float64))
    return sums * weight_scale.to(torch.float64) * scale.to(torch.float64)[:, None]


def quantised_grouped_product(
    x: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, weight_scale: Tensor
) -> Tensor:
    """`quantised_product` of every group: x int8 [M, G, K], scale and zero [M*G], weight int8 [G, N, K], weight_scale
    [G*N]; returns float64 [M, G*N].
    """
    rows, groups, _ = x.shape
    scales, zeros = scale.reshape(rows, groups), None if zero is None else zero.reshape(rows, groups)
    parts = zip(weight, weight_scale.reshape(groups, -1), strict=True)
    made = [
        quantised_product(x[:, g], scales[:, g], None if zeros is None else zeros[:, g], *part)
        for g, part in enumerate(parts)
    ]
    return torch.cat(made, 1)


def _linear(c: Call) -> Tensor:
    if c.get("x_scale") is not None:
        product = quantised_product(c["x"], c["x_scale"], c.get("x_zero"), c["weight"], c["weight_scale"])
        bias = c.get("bias")
        y = c.activate(product if bias is None else product + bias).reshape(*c["x"].shape[:-1], -1)
        return _add_residual(c, y)
    return _add_residual(c, c.activate(F.linear(c["x"], c["weight"], c.get("bias"))))


def grouped_product(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, G, K] and weight [G, N, K] -> [M, G*N]: each group with its own weight."""
    return torch.einsum("mgk,gnk->mgn", x, weight).flatten(1)


def _grouped_linear(c: Call) -> Tensor:
    if c.get("x_scale") is not None:
        y = quantised_grouped_product(c["x"], c["x_scale"], c.get("x_zero"), c["weight"], c["weight_scale"])
    else:
        y = grouped_product(c["x"], c["weight"])
    bias = c.get("bias")
    return y if bias is None else y + bias


def _layer_norm(c: Call) -> Tensor:
    return F.layer_norm(c["x"], c["x"].shape[-1:], c.get("weight"), c.get("bias"), c.float("eps"))


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _rms_norm(c: Call) -> Tensor:
    return c.activate(_rms(c["x"], c.float("eps")) * c["weight"])


def _rms_norm_rope(c: Call) -> Tensor:
    x = _rms(c["x"], c.float("eps")) * c["weight"]
    pairs = x.reshape(x.shape[0], c.int("heads"), -1, 2)
    even, odd = pairs.unbind(-1)
    cos, sin = c["cos"].unsqueeze(1), c["sin"].unsqueeze(1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(1)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[rows, heads*d] -> [heads, rows, d]."""
    return x.reshape(x.shape[0], heads, -1).transpose(0, 1)


def _shares(q: Tensor, k: Tensor, heads: int, scale: float, key_bias: Tensor | None = None) -> Tensor:
    """Softmax over the keys: p[h, s, k]."""
    logits = _by_head(q, heads) @ _by_head(k, heads).transpose(-1, -2) * scale
    return (logits if key_bias is None else logits + key_bias).softmax(-1)


def _self_attention(c: Call) -> Tensor:
    shares = _shares(c["q"], c["k"], c.int("heads"), c.float("scale"))
    return (shares @ _by_head(c["v"], c.int("heads"))).transpose(0, 1).flatten(1)


def _cross_shares(c: Call, role: str) -> tuple[Tensor, Tensor]:
    """Shares p[h, s, k] of the text keys in use and the proprio keys, and what the keys carry, [heads, k, n]."""
    count, heads = int(c["key_count"].item()), c.int("heads")
    keys, carried, bias = c["key_text"][:count], c[f"{role}_text"][:count], c["key_bias"][:count]
    if c.get("key_proprio") is not None:
        keys = torch.cat([keys, c["key_proprio"]])
        carried = torch.cat([carried, c[f"{role}_proprio"]])
        bias = F.pad(bias, (0, c["key_proprio"].shape[0]))
    return _shares(c["q"], keys, heads, c.float("scale"), bias), _by_head(carried, heads)


def _cross_attention(c: Call) -> Tensor:
    shares, values = _cross_shares(c, "value")
    return (shares @ values).transpose(0, 1).flatten(1)


def _cross_attention_folded(c: Call) -> Tensor:
    shares, outputs = _cross_shares(c, "output")
    y, bias = torch.einsum("hsk,hkn->sn", shares, outputs), c.get("bias")
    return _add_residual(c, y if bias is None else y + bias)


def _text_key_bias(c: Call) -> dict[str, Tensor]:
    (length,) = c.declared["key_bias"]
    rows = int(c["text_rows"].item())
    bias = torch.zeros(length, dtype=torch.float64)
    if rows < length:
        bias[rows] = math.log(length - rows)
    return {"key_bias": bias, "key_count": torch.tensor([min(rows + 1, length)])}


def _learned_query_pool(c: Call) -> Tensor:
    heads, queries = c.int("heads"), c.int("queries")
    normed = F.layer_norm(c["x"], c["x"].shape[-1:], eps=c.float("eps"))
    shares = (c["scores"] @ normed.T).softmax(-1).reshape(heads, queries, -1)  # p[h, q, s]
    return torch.einsum("mq,hqs,sd->mhd", c["merge"], shares, normed)


def _concat(c: Call) -> Tensor:
    return torch.cat([c[f"x.{index}"].flatten(0, -2) for index in range(len(c.tensors))], -1)


def _scale_shift_clamp(c: Call) -> Tensor:
    y = c["x"] * c["scale"] + c["shift"]
    y = y.to(torch.float32).to(y.dtype)  # the op's own precision: a normaliser's large scales make it visible
    for name, limit in (("minimum", torch.maximum), ("maximum", torch.minimum)):
        if c.attrs[name] is not None:
            y = limit(y, y.new_tensor(c.float(name)))
    return y


def _gripper_rule(c: Call) -> Tensor:
    y = c["x"].clone()
    column = c.int("column")
    y[:, column] = torch.sign(-(2 * y[:, column] - 1))
    return y


_REFERENCES: dict[str, Callable[[Call], Tensor]] = {
    "nchw_to_nhwc": _nchw_to_nhwc,
    "conv2d": _conv2d,
    "linear": _linear,
    "grouped_linear": _grouped_linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rms_norm_rope": _rms_norm_rope,
    "self_attention": _self_attention,
    "cross_attention": _cross_attention,
    "cross_attention_folded": _cross_attention_folded,
    "learned_query_pool": _learned_query_pool,
    "mean_pool": lambda c: c["x"].flatten(0, -2).mean(0, keepdim=True),
    "add": lambda c: c["a"] + c["b"],
    "subtract": lambda c: c["a"] - c["b"],
    "concat": _concat,
    "scale_shift_clamp": _scale_shift_clamp,
    "gripper_rule": _gripper_rule,
    "cast": lambda c: c["x"],
    "reshape": lambda c: c["x"].reshape(c.declared["y"]),
}


def instruction_context(graph: Graph, text: str) -> Array:
    """Context rows [n, text width] of an instruction: a known one, or through the engine's text encoder.

    Raises `InstructionError` on one that is unknown, has no word, or has more words than the engine has rows.
    """
    policy = graph.policy
    for known in policy["instructions"]:
        if known["text"] == text:
            return _table(graph, known["context"])
    encoder = policy["text_encoder"]
    if encoder is None:
        raise InstructionError(
            f"instruction {text!r} is unknown: use one of {[k['text'] for k in policy['instructions']]}"
        )
    embedding, position = _table(graph, encoder["embedding"]), _table(graph, encoder["position"])
    buckets = word_buckets(policy["prompt_template"].replace("{task}", text), len(embedding))
    if not 0 < len(buckets) <= len(position):
        raise InstructionError(f"instruction {text!r} has {len(buckets)} words: use 1..{len(position)}")
    return np.asarray(embedding[buckets] + position[: len(buckets)])


def _table(graph: Graph, name: str) -> Array:
    constant = graph.constants[name]
    return decode(constant.array(), constant.type.dtype)


def is_small(graph: Graph) -> bool:
    """Whether all weights of the graph may be kept in memory, widened."""
    return graph.constant_bytes() <= 1 << 28


@dataclass
class Interpreter:
    """Runs a graph's programs. `trace` keeps values of the last `act`: all with `keep_trace`, else those of `kept`.

    `on_op` hears of each op before it runs: the program's name, the op, and its operands. Without `rounds` values keep
    all digits that they were computed with, whatever the graph declares: what a backend's rounding is measured from.
    """

    graph: Graph
    dtype: torch.dtype = torch.float64
    keep_trace: bool = False
    kept: frozenset[str] = frozenset()
    keep_constants: bool = True
    on_op: Callable[[str, Op, Call], None] | None = None
    rounds: bool = True
    trace: dict[str, Tensor] = field(default_factory=dict)
    _instruction: dict[str, Tensor] | None = None
    _constants: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def set_instruction(self, context: Array) -> None:
        """Run `set_instruction` on the rows of an instruction, float [n, text width], n at most the engine's L."""
        policy = self.graph.policy
        rows, width, length = context.shape[0], policy["text_width"], policy["context_rows"]
        if context.ndim != 2 or context.shape[1] != width or not 0 < rows <= length:
            raise ExportError(f"context has shape {list(context.shape)}: give [n, {width}] with n in 1..{length}")
        padded = torch.zeros(length, width, dtype=self.dtype)
        padded[:rows] = torch.as_tensor(np.array(context, np.float32))
        values = self._run("set_instruction", {"context": padded, "text_rows": torch.tensor([rows])}, None)
        known = self.graph.programs["set_instruction"].values
        kept = {name for name, value in known.items() if value.storage == "instruction"}
        self._instruction = {name: x for name, x in values.items() if name in kept}

    @torch.no_grad()
    def act(self, state: Array, latents: Array | None = None, images: Mapping[str, Array] | None = None) -> Array:
        """One chunk [H, A] in robot units, from state [P] and latents [C, h, w] or uint8 images {camera: HWC}."""
        if self._instruction is None:
            raise ExportError("act before set_instruction: set an instruction first")
        inputs = {"state": torch.as_tensor(np.asarray(state), dtype=self.dtype).reshape(1, -1), **self._instruction}
        if latents is not None:
            inputs["latents"] = torch.as_tensor(np.asarray(latents), dtype=self.dtype)
        canvas = None if images is None else compose_canvas(images, self.graph.policy)
        values = self._run("act", inputs, canvas)
        self.trace = {name: x for name, x in values.items() if self.keep_trace or name in self.kept}
        actions = values[self.graph.programs["act"].outputs["actions"]]
        return np.asarray(actions)

    def _run(self, program_name: str, inputs: dict[str, Tensor], canvas: Array | None) -> dict[str, Tensor]:
        program = self.graph.programs[program_name]
        values = dict(inputs)
        last_reads = program.last_reads()
        for index, op in enumerate(program.ops):
            for role, y in self._apply(program_name, op, values, canvas).items():
                value = program.values[op.outputs[role]]
                if tuple(y.shape) != value.type.shape:
                    raise ExportError(f"op {op.name}: made {list(y.shape)} for {role}, declared {value.type}")
                values[value.name] = self._round(y, value.type.dtype)
            if not self.keep_trace:
                for name in op.inputs.values():
                    last_read = last_reads[name] == index and program.values[name].storage == "arena"
                    if last_read and name not in self.kept:
                        values.pop(name, None)
        return values

    def _apply(
        self, program_name: str, op: Op, values: Mapping[str, Tensor], canvas: Array | None
    ) -> dict[str, Tensor]:
        program = self.graph.programs[program_name]
        declared = {role: program.values[name].type.shape for role, name in op.outputs.items()}
        tensors = {role: values[name] for role, name in op.inputs.items()}
        tensors.update({role: self._constant(name) for role, name in op.constants.items()})
        call = Call(tensors, op.attrs, declared)
        if self.on_op is not None:
            self.on_op(program_name, op, call)
        if op.op == "preprocess_images":
            if canvas is None:
                raise ExportError("this graph starts at images: give act the images")
            return {"y": torch.as_tensor(canvas, dtype=self.dtype)}
        if op.op == "text_key_bias":
            return _text_key_bias(call)
        if op.op == "quantize_rows":
            return quantize_rows(call["x"], program.values[op.outputs["y"]].type.dtype)
        return {"y": _REFERENCES[op.op](call)}

    def _round(self, y: Tensor, dtype: str) -> Tensor:
        if dtype in ("i8", "f8", "i32"):
            return y
        half = _HALVES.get(dtype) if self.rounds else None
        return y.to(self.dtype) if half is None else y.to(half).to(self.dtype)

    def _constant(self, name: str) -> Tensor:
        if name not in self._constants:
            constant = self.graph.constants[name]
            tensor = torch.as_tensor(decode(np.array(constant.array()), constant.type.dtype))
            if constant.type.dtype != "i8":
                tensor = tensor.to(self.dtype)
            if not self.keep_constants:
                return tensor
            self._constants[name] = tensor
        return self._constants[name]
