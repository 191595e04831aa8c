# SPDX-License-Identifier: Apache-2.0
"""Engines of robots with other grippers than LIBERO's, against the rule itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.golden import random_model, tiny_config
from helpers.robots import with_robot
from lightwam.config import GripperRule, LightWAMConfig
from lightwam.engine.graph import Graph
from lightwam.engine.interpret import Interpreter
from lightwam.export.options import ExportOptions
from lightwam.export.parity import CHUNK
from lightwam.export.policy import Normalization
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.gpu.lower import lower

RULES = {
    "linear": GripperRule("delta_z", 100.0, -100.0, 0.0, 255.0),
    "two values": GripperRule("delta_z", 0.1, 0.0, 0.0, 255.0, two_valued=True),
    "two values, -1 open": GripperRule("delta_z", -0.1, 0.1, -1.0, 1.0, two_valued=True),
}


def graph_of(config: LightWAMConfig) -> Graph:
    rng = np.random.default_rng(5)
    scales = {name: rng.uniform(0.5, 2.0, width) for name, width in (("state_scale", 8), ("action_scale", 7))}
    normalization = replace(Normalization.identity(config), **scales, action_offset=rng.uniform(-0.1, 0.1, 7))
    options = ExportOptions(start_at="latents", latent_shape=(16, 8, 8), context_rows=4)
    weights = StateDictWeights(random_model(config, seed=2).state_dict())
    return build_graph(config, weights, options, normalization)


@pytest.mark.parametrize("name", RULES)
def test_the_engine_applies_the_robots_rule(name: str) -> None:
    """The gripper's column is the third, and the rule's remainder is an op only where a two-valued one needs it."""
    config = with_robot(tiny_config(), gripper=RULES[name])
    graph = graph_of(config)
    interpreter = Interpreter(graph, keep_trace=True)
    interpreter.set_instruction(np.ones((4, 32), np.float32))
    made = interpreter.act(np.ones(8, np.float32), np.ones((16, 8, 8), np.float32))
    normalizer = graph.policy["normalizer"]
    chunk = np.asarray(interpreter.trace[CHUNK], np.float64)
    data = (chunk - np.array(normalizer["action_offset"])) / np.array(normalizer["action_scale"])
    wanted = config.robot.to_robot(data)
    if "two values" in name:
        assert len(set(wanted[:, 2])) == 2, "the chunk must hold both values to be a test"
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-4)
    kinds = [op.op for op in graph.programs["act"].ops[-3:]]
    assert kinds[-1] == ("gripper_rule" if name == "two values, -1 open" else "scale_shift_clamp")
    assert ("gripper_rule" in kinds) == ("two values" in name)
    assert graph.policy["gripper"] == str(config.robot.gripper)
    assert lower(graph).programs


def test_the_control_rate_is_the_robots() -> None:
    assert graph_of(with_robot(tiny_config(), control_hz=30.0)).policy["control_hz"] == 30.0


def test_an_engine_turns_images_as_the_live_robot_delivers_them() -> None:
    config = LightWAMConfig.nano()
    first, second = config.cameras.cameras
    cameras = (replace(first, on_robot="upright"), replace(second, in_data="upright"))
    from lightwam.export.policy import policy_section

    section = policy_section(with_robot(config, cameras=cameras), "images", (16, 16, 32), 4, None, None)
    assert [camera["rotate_180"] for camera in section["cameras"]] == [False, True]
