# SPDX-License-Identifier: Apache-2.0
"""Attention and pooling as operators: both forms, plain and by kernels in the interpreter, beside float64 autograd."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.model_golden import relative_error
from helpers.model_tiny import build, example_batch, tiny
from lightwam.errors import ConfigError
from lightwam.kernels import torch_launch
from lightwam.kernels.ops import self_attention as self_attention_kernel
from lightwam.model import LightWAM, ops
from lightwam.model.action_expert import LearnedQueryPooler
from lightwam.model.attention import attention
from lightwam.model.dit import video_mask, video_spans

# Largest error of a gradient as a part of its norm: f32 sums; operands, weights and results rounded to 11 or 8 bits.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
HEADS, EPS = 2, 1e-5


class KernelAttention(torch.autograd.Function):
    """`lightwam::self_attention` with its kernels, wherever the tensors are."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
        y, logsumexp = ops.self_attention_by_kernel(q, k, v, num_heads)
        ops._save_attention(ctx, (q, k, v, num_heads), (y, logsumexp))
        return y, logsumexp

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Any:  # type: ignore[override]
        return (*ops.self_attention_backward_by_kernel(dy.contiguous(), *ctx.saved_tensors, ctx.num_heads), None)


class KernelPool(torch.autograd.Function):
    """`lightwam::learned_query_pool` with its kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scores: Tensor, merge: Tensor, eps: float) -> Tensor:
        y = ops.learned_query_pool_by_kernel(x, scores, merge, eps)
        ops._save_pool(ctx, (x, scores, merge, eps), y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        return (*ops.learned_query_pool_backward_by_kernel(dy.contiguous(), *ctx.saved_tensors, ctx.eps), None)


@pytest.fixture(params=["plain", "kernels"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "kernels":
        monkeypatch.setattr(ops, "_self_attention", KernelAttention.apply)
        monkeypatch.setattr(ops, "_learned_query_pool", KernelPool.apply)
    return str(request.param)


def _numbers(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def _exact(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().double().requires_grad_() for x in tensors)


def _attention_inputs(dtype: torch.dtype, queries: int = 19, keys: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (_numbers(2, n, 24 * HEADS, seed=i, dtype=dtype) for i, n in enumerate((queries, keys, keys)))
    return q, k, v


def _pool_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a mean other than 0; merge weights whose rows do not sum to 1."""
    x = (_numbers(2, 37, 40, seed=0, dtype=torch.float64).detach() * 2.0 + 3.0).to(dtype).requires_grad_()
    scores = (_numbers(HEADS, 5, 40, seed=1, dtype=torch.float64).detach() / 3.0).float().requires_grad_()
    return x, scores, _numbers(3, 5, seed=2, dtype=torch.float32)


def _reference_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _reference_pool(x: Tensor, scores: Tensor, merge: Tensor) -> Tensor:
    normal = F.layer_norm(x, x.shape[-1:], eps=EPS)
    slots = []
    for row in merge:
        shares = [sum(w * torch.softmax(normal @ s, dim=1) for w, s in zip(row, head, strict=True)) for head in scores]
        slots.append(torch.stack([(share[:, :, None] * normal).sum(1) for share in shares], dim=1))
    return torch.stack(slots, dim=1)


def _compare(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for index, (got, wanted) in enumerate(zip(results, expected, strict=True)):
        assert got.shape == wanted.shape
        assert relative_error(got.double(), wanted) < tolerance, index


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_attention_and_its_gradients(form: str, dtype: torch.dtype) -> None:
    inputs = _attention_inputs(dtype)
    exact = _exact(inputs)
    y, expected = ops.self_attention(*inputs, HEADS), _reference_attention(*exact)
    dy = _numbers(*y.shape, seed=9, dtype=dtype).detach()
    _compare((y.detach(),), (expected.detach(),), TOLERANCES[dtype])
    gradients = torch.autograd.grad(y, inputs, dy)
    assert [g.dtype for g in gradients] == [dtype] * 3
    _compare(gradients, torch.autograd.grad(expected, exact, dy.double()), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_pooling_and_its_gradients(form: str, dtype: torch.dtype) -> None:
    inputs = _pool_inputs(dtype)
    exact = _exact(inputs)
    y, expected = ops.learned_query_pool(*inputs, EPS), _reference_pool(*exact)
    dy = _numbers(*y.shape, seed=9, dtype=torch.float32).detach()
    assert y.dtype == torch.float32
    _compare((y.detach(),), (expected.detach(),), TOLERANCES[torch.float32])
    gradients = torch.autograd.grad(y, inputs, dy)
    assert [g.dtype for g in gradients] == [dtype, torch.float32, torch.float32]
    _compare(gradients, torch.autograd.grad(expected, exact, dy.double()), TOLERANCES[dtype])


def test_gradients_of_the_plain_forms_in_float64() -> None:
    q, k, v = (_numbers(2, n, 6, seed=i, dtype=torch.float64) for i, n in enumerate((4, 5, 5)))
    assert torch.autograd.gradcheck(lambda *x: ops.self_attention(*x, 3), (q, k, v))
    shapes = ((2, 5, 6), (2, 3, 6), (2, 3))
    inputs = tuple(_numbers(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(lambda *x: ops.learned_query_pool(*x, 1e-3), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_whole(dtype: torch.dtype) -> None:
    """Schema, autograd, shapes without data, and tracing with dynamic shapes: PyTorch's own check."""
    q, k, v = _attention_inputs(dtype)
    torch.library.opcheck(ops._self_attention, (q, k, v, HEADS))
    torch.library.opcheck(ops._learned_query_pool, (*_pool_inputs(dtype), EPS))
    y, logsumexp = (x.detach() for x in ops._self_attention(q, k, v, HEADS))
    saved = [x.detach() for x in (q, k, v)]
    torch.library.opcheck(ops._self_attention_backward, (y, *saved, y, logsumexp, HEADS))
    pool = [x.detach() for x in _pool_inputs(dtype)]
    torch.library.opcheck(ops._learned_query_pool_backward, (ops._learned_query_pool(*pool, EPS), *pool, EPS))


def _loss_and_gradients(model: LightWAM, run: Any) -> tuple[Tensor, ...]:
    batch = {
        name: value.to(model.proprio_encoder.weight.dtype) if value.is_floating_point() else value
        for name, value in example_batch(model).items()
    }
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(model.downsample(batch["video_latents"]).shape, generator=generator).to(batch["action"].dtype)
    timestep = torch.tensor([300.0, 800.0], dtype=noise.dtype)
    model.zero_grad()
    loss = run(batch, noise, timestep)
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return (loss.detach(), torch.cat([g.flatten() for g in gradients]))


@pytest.mark.parametrize("merge_dim", [None, 24])
def test_model_trains_alike(form: str, merge_dim: int | None) -> None:
    """Loss and every gradient of a whole model, masked video pass and poolers included, beside torch's attention."""
    torch.manual_seed(3)
    model = build(tiny(merge_dim=merge_dim))
    run = lambda batch, noise, time: model.training_losses(batch, noise=noise, timestep=time)["loss"]  # noqa: E731
    torch.manual_seed(4)
    results = _loss_and_gradients(model.set_attention("kernels"), run)
    torch.manual_seed(4)
    expected = _loss_and_gradients(model.double().set_attention("softmax"), run)
    _compare(results, expected, 2e-5)  # f32 through the layers of a whole model


def test_operators_compile_in_one_piece() -> None:
    """Forward and backward traced whole, with the gradients of eager PyTorch."""
    torch.manual_seed(4)
    pooler = LearnedQueryPooler(48, tiny(num_heads=HEADS).action_expert)
    pooler.attn.method = "kernels"
    q, k, v = _attention_inputs(torch.float32)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pooled: Tensor = pooler(attention(q, k, v, HEADS, method="kernels"))
        return pooled

    inputs = (q, k, v, *pooler.parameters())
    weights = torch.randn(2, 48)  # the sum of what a norm makes has no gradient
    results = [
        torch.autograd.grad((function(q, k, v) * weights).sum(), inputs)
        for function in (torch.compile(run, fullgraph=True, backend="aot_eager"), run)
    ]
    _compare(results[0], tuple(x.double() for x in results[1]), 1e-5)


@pytest.mark.parametrize("kind", ["first_frame_causal", "per_frame_causal", "bidirectional"])
@pytest.mark.parametrize("frames", [1, 3])
def test_spans_say_what_the_mask_says(kind: Any, frames: int) -> None:
    mask = video_mask(kind, frames, 4, torch.device("cpu"))
    seen = torch.zeros(4 * frames, 4 * frames, dtype=torch.bool)
    for start, stop, first, end in video_spans(kind, frames, 4):
        seen[start:stop, first:end] = True
    assert torch.equal(seen, torch.ones_like(seen) if mask is None else mask)


def test_refusals() -> None:
    q, k, v = _attention_inputs(torch.float32)
    with pytest.raises(ConfigError, match="for 5 heads"):
        ops.self_attention(q, k, v, 5)
    with pytest.raises(ConfigError, match="q, k, v have shapes"):
        ops.self_attention(q, k, v[:, 1:], HEADS)
    x, scores, merge = _pool_inputs(torch.float32)
    with pytest.raises(ConfigError, match="tokens, scores, merge"):
        ops.learned_query_pool(x, scores, merge[:, 1:], EPS)
    with pytest.raises(ConfigError, match=r"torch\.float64: use float32"):
        ops.self_attention_by_kernel(q.double(), k.double(), v.double(), HEADS)


def test_kernels_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_triton(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'triton' (for {name})", name="triton")

    monkeypatch.setattr("lightwam.model.ops.importlib", SimpleNamespace(import_module=without_triton))
    with pytest.raises(ConfigError, match=r"'triton' is not installed: pip install '\.\[gpu\]'"):
        ops.self_attention_by_kernel(*_attention_inputs(torch.float32), HEADS)


def test_a_gpu_that_kernels_cannot_be_made_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise torch_launch.CompileError("kernel self_attention has no tactics for sm_75")

    monkeypatch.setattr(torch_launch, "launch", refuse)
    with pytest.raises(ConfigError, match=r"no tactics for sm_75: choose attention 'sdpa'"):
        ops.self_attention_by_kernel(*_attention_inputs(torch.float32), HEADS)


def test_launch_refuses_what_does_not_fit() -> None:
    task = self_attention_kernel.task(8, 1, 16, x="f32", y="f32", scale=0.25)
    good = torch.randn(8, 16)
    for bad in (good.double(), torch.randn(7, 16), torch.randn(16, 8).T):
        with pytest.raises(ValueError, match="kernel self_attention: k is"):
            torch_launch.launch(task, [good, bad, good])


def test_launch_on_a_gpu_binds_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's launcher gets, without a GPU: every parameter of the kernel, the target's tactic, its grid."""
    calls: list[Any] = []

    class Recorder:
        fn = staticmethod(self_attention_kernel.kernel.fn)

        def __getitem__(self, grid: Any) -> Any:
            return lambda **options: calls.append((grid, options))

    task = self_attention_kernel.task(70, 2, 32, x="f32", y="f32", scale=1.0 / math.sqrt(32), batch=3, logsumexp=True)
    tactic = self_attention_kernel.tactics(task, "sm_90")[0]
    tensors = [torch.zeros(a.shape or ()) for a in task.arguments]
    monkeypatch.setattr(self_attention_kernel, "kernel", Recorder())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    choices: list[Any] = []
    monkeypatch.setattr(torch_launch, "_chosen", {})
    monkeypatch.setattr(torch_launch, "choose_tactic", lambda *given: choices.append(given) or tactic)
    for _ in range(2):
        torch_launch._launch_compiled(task, tensors)
    assert choices == [(task, "sm_90", tensors)]  # once
    (grid, options), again = calls
    assert again == (grid, options)
    assert grid == self_attention_kernel.grid(task, tactic) and grid[2] == 3
    assert list(options) == [*inspect.signature(Recorder.fn).parameters, "num_warps", "num_stages", "enable_fp_fusion"]
    assert all(options[a.name] is tensor for a, tensor in zip(task.arguments, tensors, strict=True))
    assert options["statistics"] is None and options["BLOCK_M"] == tactic.constants["BLOCK_M"]
