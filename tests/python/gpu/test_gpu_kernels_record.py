# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for every target: the record of the last full run fits the sources, and a sample is remade.

The full run (`make gpu-kernels`) takes too long for a test; it records a digest of all that it compiled.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import gpu_kernels
import pytest

from lightwam.gpu.lower import lower
from lightwam.gpu.plan import LaunchPlan
from lightwam.kernels.compiler.tasks import Compiler
from lightwam.kernels.targets import TARGETS

RECORD: dict[str, Any] = json.loads(gpu_kernels.RECORD.read_text())
SAMPLED = "nano-bf16"


@cache
def plan_of(configuration: str) -> LaunchPlan:
    return lower(gpu_kernels.configuration_graph(configuration))


@pytest.mark.parametrize("configuration", RECORD["configurations"])
def test_what_was_compiled_is_what_the_sources_say(configuration: str) -> None:
    recorded = RECORD["configurations"][configuration]
    plan = plan_of(configuration)
    targets = [target for target in TARGETS if TARGETS[target].fp8 or not configuration.endswith("fp8")]
    assert list(recorded) == targets == gpu_kernels.targets_of(plan)
    digests = {target: gpu_kernels.digest(plan, target, RECORD["tactics"]) for target in targets}
    assert digests == {target: entry["digest"] for target, entry in recorded.items()}, (
        "kernels, tactics, plans or Triton changed since all were compiled: run make gpu-kernels"
    )


@pytest.mark.parametrize("configuration", RECORD["configurations"])
def test_machine_code_is_as_small_as_it_must_be_and_does_not_spill(configuration: str) -> None:
    recorded = RECORD["configurations"][configuration]
    assert sum(entry["bytes"] for entry in recorded.values()) <= gpu_kernels.MOST_BYTES
    for target, entry in recorded.items():
        assert entry["stack"] == 0, f"a kernel for {target} spills in {configuration}"
        assert 0 <= entry["shared"] <= TARGETS[target].shared_bytes and 0 < entry["registers"] <= 255
        assert entry["tactics"] >= entry["tasks"] > 0


def test_the_page_is_that_of_the_record() -> None:
    assert gpu_kernels.RECORD.read_text() == gpu_kernels.text(RECORD)
    assert set(RECORD["configurations"]) == set(gpu_kernels.CONFIGURATIONS), "run make gpu-kernels"
    assert gpu_kernels.PAGE.read_text() == gpu_kernels.page(RECORD)


def test_a_sample_compiles_again() -> None:
    """A task of every kernel of one policy, each for another target: the tactic that is its default does not spill."""
    tasks = list({planned.task.kernel: planned.task for planned in plan_of(SAMPLED).tasks}.values())
    compiler, targets = Compiler(None, 2), list(TARGETS)
    for number, target in enumerate(targets):
        for results in compiler.compile(tasks[number :: len(targets)], [target], 1):
            default = results[target].kept[0]
            assert default.code.stack == 0, f"{results[target].task.kernel} for {target}: {default.note}"
            assert default.code.shared <= TARGETS[target].shared_bytes
