# SPDX-License-Identifier: Apache-2.0
"""Tactics of tasks on PyTorch tensors: Triton compiles them as on a GPU, which only a driver without one plays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from lightwam.kernels import torch_launch
from lightwam.kernels.compiler.tasks import CompileError
from lightwam.kernels.ops import row_norm
from lightwam.kernels.task import Tactic

TARGET = "sm_86"  # no target of `lightwam compile`: training runs on more GPUs
TASK = row_norm.task(64, 1024, kind="rms", x="f32", y="f32", eps=1e-6)
GOOD = row_norm.tactics(TASK, TARGET)[0]
SPILLING = Tactic({**GOOD.constants, "BLOCK_ROWS": 8, "BLOCK": 1024}, num_warps=1)  # 256 numbers a thread
SPILLING_MORE = Tactic({**GOOD.constants, "BLOCK_ROWS": 16, "BLOCK": 1024}, num_warps=1)
FAILING = Tactic({**GOOD.constants, "BLOCK": 96})  # no power of two


class Driver:
    """As much of a driver as compiling needs. `most_shared`: bytes of shared memory a program may have."""

    def __init__(self, most_shared: int) -> None:
        self.utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": most_shared})

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(TARGET.removeprefix("sm_")), 32)

    def get_current_device(self) -> int:
        return 99  # none that a machine has: kernels remember what they compiled for a device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    monkeypatch.setattr(driver, "_active", Driver(99 << 10))
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path_factory.getbasetemp() / "triton")
        yield


def chosen(monkeypatch: pytest.MonkeyPatch, *tactics: Tactic) -> Tactic:
    """What a launch takes where the task has these tactics."""
    monkeypatch.setattr(torch_launch, "candidates", lambda task, target: list(tactics))
    tensors = [torch.zeros(argument.shape or ()) for argument in TASK.arguments]
    return torch_launch.choose_tactic(TASK, TARGET, tensors)


def test_the_first_that_does_not_spill(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(monkeypatch, FAILING, SPILLING, GOOD, Tactic(GOOD.constants, num_warps=8)) == GOOD
    assert not caplog.records


def test_the_least_spilling_where_every_one_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightwam.kernels"):
        assert chosen(monkeypatch, SPILLING_MORE, SPILLING, FAILING) == SPILLING
    (record,) = caplog.records
    assert "kernel row_norm: every tactic for sm_86 spills, at least " in record.getMessage()


def test_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match=r"^kernel row_norm cannot be compiled for sm_86: \w+: .*$") as caught:
        chosen(monkeypatch, FAILING)
    assert "\n" not in str(caught.value)
    with pytest.raises(CompileError, match="it has no tactics"):
        chosen(monkeypatch)
    with pytest.raises(CompileError, match=r"kernel row_norm has no tactics for sm_75, only for sm_80, "):
        torch_launch.choose_tactic(TASK, "sm_75", [])


def test_shared_memory_of_the_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Tactic({"BLOCK_ROWS": 1, "BLOCK": 1024}, num_warps=4)  # rows in several warps meet in shared memory
    narrow = Tactic({"BLOCK_ROWS": 1, "BLOCK": 1024}, num_warps=1)
    assert chosen(monkeypatch, wide, narrow) == wide
    monkeypatch.setattr(driver, "_active", Driver(4))
    assert chosen(monkeypatch, wide, narrow) == narrow
