# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes counted from the graph, without a single weight."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.golden import GOLDEN, tiny_config
from lightwam.config import LightWAMConfig
from lightwam.engine.costs import counted_text_rows, graph_costs
from lightwam.engine.graph import Graph
from lightwam.engine.ops import OPS
from lightwam.export.instructions import build_policy_graph
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
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
    options = ExportOptions(precision="bf16", cross_output=cross_output)
    return build_graph(config, StateDictWeights({}), options, text_rows=text_rows)


def test_libero_chunk_costs_at_most_1100_gflop() -> None:
    costs = graph_costs(_graph(LightWAMConfig.libero(), "projected"))
    assert costs.flops <= 1100e9
    assert 2.9e9 < costs.constant_bytes < 3.1e9
    stages = {stage: round(flops / 1e9) for stage, flops in costs.by_stage().items()}
    assert stages == {"preprocess": 0, "vae": 237, "backbone": 850, "expert": 3, "postprocess": 0}


def _matmul_weights(graph: Graph) -> int:
    """Numbers in the weights of a chunk's matmuls."""
    weights = {op.constants["weight"] for op in graph.programs["act"].ops if OPS[op.op].matmul}
    return sum(math.prod(graph.constants[name].type.shape) for name in weights)


@pytest.mark.parametrize(
    ("text_rows", "projected", "folded"), [(20, 1084.54, 1045.70), (32, 1085.26, 1050.40), (128, 1090.98, 1087.58)]
)
def test_libero_chunk_with_and_without_the_output_projection(text_rows: int, projected: float, folded: float) -> None:
    graphs = {form: _graph(LightWAMConfig.libero(), form) for form in ("projected", "folded")}
    costs = {form: graph_costs(graph, text_rows) for form, graph in graphs.items()}
    assert costs["projected"].flops / 1e9 == pytest.approx(projected, abs=0.01)
    assert costs["folded"].flops / 1e9 == pytest.approx(folded, abs=0.01)
    assert _matmul_weights(graphs["folded"]) == _matmul_weights(graphs["projected"])


@pytest.mark.parametrize(("text_rows", "folded"), [(None, True), (20, True), (100, True), (110, False), (128, False)])
def test_output_is_folded_where_it_costs_less(text_rows: int | None, folded: bool) -> None:
    ops = {op.op for op in _graph(LightWAMConfig.libero(), text_rows=text_rows).programs["act"].ops}
    assert ("cross_attention_folded" in ops, "cross_attention" in ops) == (folded, not folded)


def test_costs_are_counted_for_the_longest_known_instruction() -> None:
    libero, rows = LightWAMConfig.libero(), {"short": np.ones((9, 4096)), "long": np.ones((40, 4096))}
    known = build_policy_graph(libero, StateDictWeights({}), ExportOptions(), False, rows)
    assert (counted_text_rows(known), counted_text_rows(_graph(libero))) == (40, 32)
    assert counted_text_rows(_graph(LightWAMConfig.nano())) == 24  # all that it has


#: (configuration, text rows, cross-attention) -> FLOPs of a chunk and numbers in its weights, as an independent ledger
#: counted them: the published, unfolded pass (LIBERO: 1,823 GFLOP) less what each saving removes.
_LEDGER = {
    ("libero", None, "folded"): (1_087_576_031_232, 1_481_367_072),
    ("libero", None, "projected"): (1_090_980_421_632, 1_481_367_072),
    ("libero", 3, "folded"): (1_039_045_804_032, 1_481_367_072),
    ("libero", 3, "projected"): (1_083_514_232_832, 1_481_367_072),
    ("robotwin", None, "folded"): (1_338_514_679_808, 1_481_419_296),
    ("robotwin", None, "projected"): (1_342_709_803_008, 1_481_419_296),
    ("robotwin", 3, "folded"): (1_279_089_911_808, 1_481_419_296),
    ("robotwin", 3, "projected"): (1_333_567_531_008, 1_481_419_296),
    ("nano", None, "folded"): (1_099_193_344, 4_474_136),
    ("nano", None, "projected"): (1_115_290_624, 4_474_136),
    ("nano", 3, "folded"): (1_064_786_944, 4_474_136),
    ("nano", 3, "projected"): (1_105_460_224, 4_474_136),
    ("tiny", None, "folded"): (237_630_946_944, 19_635_040),
    ("tiny", None, "projected"): (237_578_398_464, 19_635_040),
    ("tiny", 3, "folded"): (237_490_955_904, 19_635_040),
    ("tiny", 3, "projected"): (237_508_402_944, 19_635_040),
    ("narrow", None, "folded"): (237_130_997_024, 19_586_528),
    ("narrow", None, "projected"): (237_117_502_784, 19_586_528),
    ("narrow", 3, "folded"): (237_110_581_664, 19_586_528),
    ("narrow", 3, "projected"): (237_111_669_824, 19_586_528),
    ("mean pooling", None, "folded"): (237_875_492_608, 19_728_480),
    ("mean pooling", None, "projected"): (237_759_885_568, 19_728_480),
    ("mean pooling", 3, "folded"): (237_642_174_208, 19_728_480),
    ("mean pooling", 3, "projected"): (237_666_558_208, 19_728_480),
}


@pytest.mark.parametrize(("name", "text_rows", "cross_output"), _LEDGER)
def test_every_configuration_costs_what_the_savings_leave(name: str, text_rows: int | None, cross_output: str) -> None:
    graph = _graph(_CONFIGS[name](), cross_output)
    assert (graph_costs(graph, text_rows).flops, _matmul_weights(graph)) == _LEDGER[name, text_rows, cross_output]


@pytest.mark.parametrize("cross_output", ["folded", "projected"])
def test_short_instructions_cost_less(cross_output: str) -> None:
    graph = _graph(LightWAMConfig.libero(), cross_output)
    keys = {rows: graph_costs(graph, rows).flops for rows in (10, 127, 128)}
    assert keys[10] < keys[127] == keys[128] == graph_costs(graph).flops
