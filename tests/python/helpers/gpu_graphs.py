# SPDX-License-Identifier: Apache-2.0
"""Graphs for the tests of launch plans: golden policies, a small one that every fusion fits, full-size ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from helpers.golden import golden_policy, randomize
from helpers.plan_runner import PlanRunner, Way
from helpers.robots import with_square_cameras
from lightwam.assets import bundled_engine
from lightwam.config import LightWAMConfig
from lightwam.engine.dtypes import Array, DType
from lightwam.engine.file import read_engine
from lightwam.engine.graph import Graph, Precision
from lightwam.engine.interpret import Interpreter, instruction_context
from lightwam.export.api import build_policy_graph
from lightwam.export.build import BuildOptions, build_graph
from lightwam.export.policy import CrossOutput, Normalization
from lightwam.export.weights import StateDictWeights
from lightwam.gpu.plan import LaunchPlan
from lightwam.model import LightWAM
from lightwam.model.vae import WanVAE
from lightwam.quantize.layers import float_precision, in_precision


@dataclass(frozen=True)
class Sample:
    """A graph with an instruction and an observation."""

    graph: Graph
    context: Array
    state: Array
    latents: Array | None
    images: dict[str, Array] | None

    def interpreted(self) -> Array:
        """The chunk in float64, rounded where the graph says."""
        interpreter = Interpreter(self.graph)
        interpreter.set_instruction(self.context)
        return interpreter.act(self.state, self.latents, self.images)

    def planned(self, plan: LaunchPlan, way: Way) -> Array:
        """The chunk of a launch plan."""
        runner = PlanRunner(self.graph, plan, way)
        runner.set_instruction(self.context)
        return runner.act(self.state, self.latents, self.images)


def deviation(made: Array, wanted: Array) -> float:
    """Largest error relative to the largest number."""
    return float(np.abs(made - wanted).max() / np.abs(wanted).max())


@cache
def golden_sample(name: str, precision: Precision, cross_output: CrossOutput) -> Sample:
    golden = golden_policy(name)
    context = golden.tensors["in.context"][0]
    options = BuildOptions(
        float_precision(precision), start_at="latents", latent_shape=golden.latent_shape,
        context_rows=golden.context_rows, cross_output=cross_output,
    )  # fmt: skip
    weights = StateDictWeights(golden.model.state_dict())
    graph = build_policy_graph(golden.model.config, weights, options, False, {"go": context})
    state, latents = golden.tensors["in.proprio"][0].numpy(), golden.tensors["in.latents"][0, :, 0].numpy()
    return Sample(_in(graph, precision), context.numpy(), state, latents, None)


def _in(graph: Graph, precision: Precision) -> Graph:
    return in_precision(graph, precision, 1)


def small_config() -> LightWAMConfig:
    """Nano from images, so small that it is interpreted in seconds; its rows have whole pairs of 64 columns."""
    nano = LightWAMConfig.nano()
    dit = replace(
        nano.video_dit, hidden_dim=256, num_heads=2, head_dim=128, ffn_dim=320, num_layers=4,
        adapters=replace(nano.video_dit.adapters, layers=(0, 2)),
    )  # fmt: skip
    expert = replace(nano.action_expert, per_layer_dim=64, trunk_dim=96, num_heads=2)
    return with_square_cameras(replace(nano, video_dit=dit, action_expert=expert), 32)


@cache
def small_sample(precision: Precision, cross_output: CrossOutput = "folded") -> Sample:
    config = small_config()
    model, vae = LightWAM(config), WanVAE(config.vae)
    randomize(model)
    randomize(vae, "vae.")
    weights = StateDictWeights({**model.state_dict(), **{f"vae.{k}": v for k, v in vae.state_dict().items()}})
    rng = np.random.default_rng(0)
    context = rng.standard_normal((9, config.text.width)).astype(np.float32)
    normalization = Normalization(
        rng.uniform(0.5, 2, 8), rng.uniform(-1, 1, 8), rng.uniform(0.5, 2, 7), rng.uniform(-1, 1, 7), 5.0
    )
    options = BuildOptions(float_precision(precision), cross_output=cross_output, normalization=normalization)
    graph = build_policy_graph(config, weights, options, False, {"go": context}, vae_config=config.vae)
    sizes = ((40, 48, 3), (25, 32, 3))
    images = {
        camera["name"]: rng.integers(0, 256, size, np.uint8)
        for camera, size in zip(graph.policy["cameras"], sizes, strict=True)
    }
    return Sample(_in(graph, precision), context, rng.uniform(-1, 1, 8).astype(np.float32), None, images)


@cache
def bundled_sample() -> Sample:
    """The bundled policy (nano, f32, from images) with a random observation."""
    graph, rng = read_engine(bundled_engine()), np.random.default_rng(0)
    context = instruction_context(graph, "pick up the milk and place it in the basket")
    images = {camera["name"]: rng.integers(0, 256, (128, 128, 3), np.uint8) for camera in graph.policy["cameras"]}
    return Sample(graph, context, rng.uniform(-1, 1, 8).astype(np.float32), None, images)


@cache
def full_size_graph(name: str, precision: Precision, stream_dtype: DType = "f32") -> Graph:
    """LIBERO's or RoboTwin's, without weights."""
    config = {"libero": LightWAMConfig.libero, "robotwin": LightWAMConfig.robotwin}[name]()
    options = BuildOptions(float_precision(precision), stream_dtype=stream_dtype)
    graph = build_graph(config, StateDictWeights({}), options)
    return in_precision(graph, precision)
