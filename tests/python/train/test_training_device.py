# SPDX-License-Identifier: Apache-2.0
"""`--device` of the trainers: what it accepts, what it chooses and says, and how batches travel. No GPU is needed."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from lightwam import cli
from lightwam.errors import ConfigError, DeviceError
from lightwam.model.attention import AttentionMethod
from lightwam.train.device import (
    choose_attention,
    mixed_precision,
    require_compiler,
    use_device,
    warn_of_slow_bfloat16,
)
from lightwam.train.trainer import on_device

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two H100, as far as PyTorch's answers go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0 ", "CUDA", "", "meta", "auto"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="give cpu, cuda or cuda:N"):
        use_device(name)


def test_compiling_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no C++ compiler: with torch's own error, at the first call."""

    def fails(number: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\nNo working C++ compiler found in (None, 'g++')\nmore\nlines")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    with pytest.raises(ConfigError, match=r"^--compile: .*\(No working C\+\+ compiler.*\): install .*--no-compile$"):
        require_compiler(CPU)


@pytest.mark.parametrize(("cuda", "why"), [(None, "is built without CUDA"), ("13.0", "finds no GPU")])
def test_cuda_that_is_not_there_is_one_line(cuda: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(DeviceError, match=rf"^--device cuda:1: PyTorch .* {why}.*give cpu$"):
        use_device("cuda:1")


@pytest.mark.parametrize("verb", ["train vae", "train policy --vae none"])
def test_both_trainers_refuse_before_they_read_anything(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(f"{verb} --data none --out none --cache none --device cuda".split()) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and "DeviceError: --device cuda: PyTorch" in error


def test_a_gpu_by_number(gpus: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with caplog.at_level(logging.INFO, "lightwam.train.device"):
        assert use_device("cuda") == torch.device("cuda", 0) and use_device("cuda:1") == torch.device("cuda", 1)
    assert not torch.backends.cudnn.allow_tf32
    assert [record.getMessage() for record in caplog.records] == [
        f"training on GPU {number}, NVIDIA H100 (sm_90)" for number in (0, 1)
    ]
    with pytest.raises(DeviceError, match=r"--device cuda:2: this process may use 2 GPU\(s\): give a number below 2"):
        use_device("cuda:2")


@pytest.mark.parametrize(
    ("requested", "device", "capability", "method", "why"),
    [
        (None, CPU, (0, 0), "softmax", "fastest on a CPU"),
        ("kernels", CPU, (0, 0), "kernels", "as requested"),
        (None, GPU, (9, 0), "kernels", "compiled for sm_90 on first use"),
        (None, GPU, (8, 0), "kernels", "compiled for sm_80 on first use"),
        (None, GPU, (7, 5), "sdpa", "no tactics for sm_75, only for sm_80, "),
        ("softmax", GPU, (9, 0), "softmax", "as requested"),
    ],
)
def test_attention_is_chosen_and_said(
    requested: AttentionMethod | None, device: torch.device, capability: tuple[int, int], method: str, why: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with caplog.at_level(logging.INFO, "lightwam.train.device"):
        assert choose_attention(requested, device) == method
    (record,) = caplog.records
    assert record.getMessage().startswith(f"attention {method}: ") and why in record.getMessage()


def test_without_triton_attention_is_torch_s(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert choose_attention(None, GPU) == "sdpa"


def test_batches_reach_a_gpu_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, copies = [torch.ones(2), torch.zeros(3)], list[object]()
    batch = dict(zip("ab", (tensor.clone() for tensor in pinned), strict=True))
    assert all(moved is kept for moved, kept in zip(on_device(batch, CPU).values(), batch.values(), strict=True))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: next(p for p in pinned if torch.equal(p, tensor)))
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, non_blocking: copies.append((device, non_blocking)) or tensor
    )
    assert [moved is kept for moved, kept in zip(on_device(batch, GPU).values(), pinned, strict=True)] == [True] * 2
    assert copies == [(GPU, True)] * 2


def test_mixed_precision_is_bfloat16() -> None:
    with mixed_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "precision", "able", "warnings"),
    [(CPU, "autocast", False, 1), (CPU, "bfloat16", False, 1), (CPU, "float32", False, 0), (CPU, "autocast", True, 0),
     (GPU, "autocast", False, 0)],
)  # fmt: skip
def test_slow_bfloat16_is_said(
    device: torch.device, precision: str, able: bool, warnings: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("lightwam.train.device._cpu_has_bfloat16", lambda: able)
    warn_of_slow_bfloat16(device, precision)
    assert len(caplog.records) == warnings
    assert all("--precision float32 is faster" in record.getMessage() for record in caplog.records)
