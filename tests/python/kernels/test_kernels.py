# SPDX-License-Identifier: Apache-2.0
"""Every case of every kernel in the interpreter, beside its reference in float64."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from helpers import kernel_parity as parity
from helpers.kernel_runs import run_arrays
from lightwam.kernels.task import Task


def _cases() -> list[Any]:
    return [
        pytest.param(module, task, id=f"{module.__name__.rpartition('.')[2]}-{index}")
        for module in parity.modules()
        for index, task in enumerate(module.CASES)
    ]


@pytest.mark.parametrize(("module", "task"), _cases())
def test_kernel_equals_reference(module: ModuleType, task: Task) -> None:
    """The interpreter's tactics, and the default ones of an Orin and an H100 (which differ in their constants).

    Those have small blocks, so several programs, ragged ends and other orders.
    """
    inputs = parity.inputs(task)
    expected = parity.reference(task, inputs)
    tactics = [*module.tactics(task, "interpreter"), *(module.tactics(task, name)[0] for name in ("sm_87", "sm_90"))]
    for tactic in {tuple(tactic.constants.items()): tactic for tactic in tactics}.values():
        assert not parity.differences(task, run_arrays(task, tactic, inputs), expected)
