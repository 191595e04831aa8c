# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes counted from the graph, without a single weight, and the table of savings that leads there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.golden import GOLDEN, tiny_config
from lightwam.config import LightWAMConfig
from lightwam.engine.costs import counted_text_rows, graph_costs, output_is_folded
from lightwam.engine.graph import Graph
from lightwam.export.api import build_policy_graph
from lightwam.export.build import BuildOptions, build_graph
from lightwam.export.savings import published_ledger, savings, total
from lightwam.export.weights import StateDictWeights


def _narrow(config: LightWAMConfig) -> LightWAMConfig:
    """Attention narrower than the stream, merged slots, two sources, no trunk, partial LoRA, down-sampled pass."""
    dit = config.video_dit
    assert dit.lora is not None
    lora = replace(dit.lora, layers=(0, 5), modules=("self_attn.o", "cross_attn.k", "ffn.0"))
    return replace(
        config,
        video_dit=replace(dit, num_heads=2, head_dim=12, lora=lora),
        action_expert=replace(
            config.action_expert, merge_dim=40, merge_slots=3, sources=("delta", "adapted"), num_trunk_blocks=0
        ),
        video=replace(config.video, spatial_downsample=2, downsample_action_pass=True),
    )


_CONFIGS: dict[str, Callable[[], LightWAMConfig]] = {
    "libero": LightWAMConfig.libero,
    "robotwin": LightWAMConfig.robotwin,
    "nano": LightWAMConfig.nano,
    "tiny": tiny_config,
    "narrow": lambda: _narrow(tiny_config()),
    "mean pooling": lambda: LightWAMConfig.from_published(json.loads((GOLDEN / "golden_set3.json").read_text())),
}


def _graph(config: LightWAMConfig, cross_output: Any = "auto", text_rows: int | None = None) -> Graph:
    options = BuildOptions(precision="bf16", cross_output=cross_output, text_rows=text_rows)
    return build_graph(config, StateDictWeights({}), options)


def test_libero_chunk_costs_at_most_1100_gflop() -> None:
    costs = graph_costs(_graph(LightWAMConfig.libero(), "projected"))
    assert costs.flops <= 1100e9
    assert 2.9e9 < costs.constant_bytes < 3.1e9
    stages = {stage: round(flops / 1e9) for stage, flops in costs.by_stage().items()}
    assert stages == {"preprocess": 0, "vae": 237, "backbone": 850, "expert": 3, "postprocess": 0}


@pytest.mark.parametrize(
    ("text_rows", "projected", "folded"), [(20, 1084.54, 1045.70), (32, 1085.26, 1050.40), (128, 1090.98, 1087.58)]
)
def test_libero_chunk_with_and_without_the_output_projection(text_rows: int, projected: float, folded: float) -> None:
    costs = {form: graph_costs(_graph(LightWAMConfig.libero(), form), text_rows) for form in ("projected", "folded")}
    assert costs["projected"].flops / 1e9 == pytest.approx(projected, abs=0.01)
    assert costs["folded"].flops / 1e9 == pytest.approx(folded, abs=0.01)
    assert costs["folded"].product_weights == costs["projected"].product_weights


@pytest.mark.parametrize(("text_rows", "folded"), [(None, True), (20, True), (100, True), (110, False), (128, False)])
def test_output_is_folded_where_it_costs_less(text_rows: int | None, folded: bool) -> None:
    assert output_is_folded(_graph(LightWAMConfig.libero(), text_rows=text_rows)) == folded


def test_costs_are_told_for_the_longest_known_instruction() -> None:
    libero, rows = LightWAMConfig.libero(), {"short": np.ones((9, 4096)), "long": np.ones((40, 4096))}
    known = build_policy_graph(libero, StateDictWeights({}), BuildOptions(), False, rows)
    assert (counted_text_rows(known), counted_text_rows(_graph(libero))) == (40, 32)
    assert counted_text_rows(_graph(LightWAMConfig.nano())) == 24  # all that it has


def test_unfolded_libero_chunk_costs_1823_gflop() -> None:
    before = total(published_ledger(LightWAMConfig.libero(), 128))
    assert before.flops == pytest.approx(1823e9, rel=0.01)


@pytest.mark.parametrize("cross_output", ["folded", "projected"])
@pytest.mark.parametrize("text_rows", [None, 3])
@pytest.mark.parametrize("name", _CONFIGS)
def test_savings_lead_exactly_to_the_graph(name: str, text_rows: int | None, cross_output: str) -> None:
    config = _CONFIGS[name]()
    lines = savings(config, text_rows, cross_output == "folded")
    costs = graph_costs(_graph(config, cross_output), text_rows)
    assert lines[-1].after.flops == costs.flops
    assert lines[-1].after.weights == costs.product_weights
    assert [line.number for line in lines] == list(range(1, 14))
    for first, second in itertools.pairwise(lines):
        assert first.after == second.before
    assert all(
        line.after.flops <= line.before.flops and line.after.num_bytes <= line.before.num_bytes for line in lines[:12]
    )
    if cross_output == "projected":
        assert lines[12].before == lines[12].after and "not used" in lines[12].what


def test_each_saving_is_worth_what_the_list_says() -> None:
    """Gigaflop, each applied to what the ones before it left (20 text rows)."""
    worth = {line.number: (line.before.flops - line.after.flops) / 1e9 for line in savings(LightWAMConfig.libero(), 20)}
    wanted = {1: 186, 2: 435, 3: 52, 4: 13, 5: 0, 6: 32, 7: 6, 8: 11.1, 9: 2.5, 10: 0, 11: 0.2, 12: 0, 13: 38.8}
    assert worth == pytest.approx(wanted, abs=0.5)


@pytest.mark.parametrize("cross_output", ["folded", "projected"])
def test_short_instructions_cost_less(cross_output: str) -> None:
    graph = _graph(LightWAMConfig.libero(), cross_output)
    keys = {rows: graph_costs(graph, rows).flops for rows in (10, 127, 128)}
    assert keys[10] < keys[127] == keys[128] == graph_costs(graph).flops
