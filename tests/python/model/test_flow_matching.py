# SPDX-License-Identifier: Apache-2.0
"""Noise levels, weights and schedules against the published scheduler's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.model_golden import load_json, relative_error
from lightwam.config import FlowMatchingConfig
from lightwam.model.flow_matching import FlowMatching


@pytest.fixture(scope="module")
def golden() -> Any:
    return load_json("golden_scheduler")


@pytest.mark.parametrize(("shift", "steps"), [(5, 4), (5, 10), (5, 20), (3, 10)])
def test_sampling_schedule(golden: Any, shift: int, steps: int) -> None:
    recorded = golden[f"infer_shift{shift}_{steps}"]
    times, deltas = FlowMatching(FlowMatchingConfig(shift=float(shift))).sampling_schedule(steps)
    assert relative_error(times, torch.tensor(recorded["timesteps"])) < 1e-6
    assert relative_error(deltas, torch.tensor(recorded["deltas"])) < 1e-6


def test_schedule_in_bf16(golden: Any) -> None:
    recorded = golden["infer_shift5_10_bf16"]
    times, deltas = (x.bfloat16().float() for x in FlowMatching(FlowMatchingConfig()).sampling_schedule(10))
    assert times.tolist() == recorded["timesteps"]
    assert deltas.tolist() == recorded["deltas"]


def test_training_weight(golden: Any) -> None:
    flow = FlowMatching(FlowMatchingConfig())
    assert flow.weight_floor == pytest.approx(golden["y_min"], rel=1e-12)
    assert flow.weight_mean == pytest.approx(golden["weight_norm_const"], rel=1e-12)
    assert FlowMatching(FlowMatchingConfig(shift=1.0)).weight_mean == pytest.approx(golden["shift1"]["norm"], rel=1e-12)
    times = torch.tensor([float(time) for time in golden["training_weight"]])
    assert relative_error(flow.training_weight(times), torch.tensor(list(golden["training_weight"].values()))) < 1e-6


def test_noise_target_and_step(golden: Any) -> None:
    flow, case, step = FlowMatching(FlowMatchingConfig()), golden["add_noise"], golden["step"]
    x, noise, times = (torch.tensor(case[key]) for key in ("x", "noise", "t"))
    assert relative_error(flow.add_noise(x, noise, times), torch.tensor(case["out"])) < 1e-6
    assert relative_error(flow.target(x, noise), torch.tensor(case["target"])) < 1e-6
    x, v = torch.tensor(step["x"]), torch.tensor(step["v"])
    assert relative_error(flow.step(x, v, step["delta"]), torch.tensor(step["out"])) < 1e-6


def test_sampled_times(golden: Any) -> None:
    flow, case = FlowMatching(FlowMatchingConfig()), golden["sample_training_t"]
    assert relative_error(flow.shift(torch.tensor(case["u"])) * 1000, torch.tensor(case["t"])) < 1e-6
    times = flow.sample_timesteps(1000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert times.min() >= 0 and times.max() < 1000 and times.mean() > 700  # shifted towards noise
