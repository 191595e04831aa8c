# SPDX-License-Identifier: Apache-2.0
"""Assembles the two programs of a policy from folded layers. No weight is touched before a constant is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from lightwam.config import LightWAMConfig, VideoDiTConfig
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.costs import assumed_text_rows, keys_in_use
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import Constant, FloatPrecision, Graph, Program, Value
from lightwam.engine.memory_plan import plan_graph
from lightwam.errors import ExportError
from lightwam.export.build_dit import BackboneBuilder, BackboneFold
from lightwam.export.build_expert import ExpertBuilder
from lightwam.export.build_vae import VAEEncoderBuilder
from lightwam.export.fold import blocks_needed, cross_output_flops
from lightwam.export.layers import Emitter, Formats, constant
from lightwam.export.policy import (
    CrossOutput,
    Normalization,
    StartAt,
    policy_section,
    refuse_unfoldable,
)
from lightwam.export.weights import Weights

# Saving 13 sums over few keys, and moves as many results for it: it must need so many times fewer FLOPs to be faster.
# Measured (docs/reports/performance.md): equal times near 115 keys at full size, where FLOPs alone say 139.
_FOLDED_OUTPUT_MARGIN = 1.25


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. `latent_shape` and `context_rows` follow the configuration unless given.

    `cross_output`: saving 13 always ('folded'), never ('projected'), or where it needs 1.25 times fewer FLOPs ('auto')
    at `text_rows`, the rows of the longest known instruction (32 where none is known).
    """

    precision: FloatPrecision = "f32"
    weight_dtype: DType | None = None
    stream_dtype: DType = "f32"
    start_at: StartAt = "images"
    latent_shape: tuple[int, int, int] | None = None
    context_rows: int | None = None
    normalization: Normalization | None = None
    control_hz: float | None = None
    name: str | None = None
    cross_output: CrossOutput = "auto"
    text_rows: int | None = None

    def resolved_latent_shape(self, config: LightWAMConfig) -> tuple[int, int, int]:
        return self.latent_shape or (config.vae.z_dim, *config.latent_size)

    def resolved_context_rows(self, config: LightWAMConfig) -> int:
        rows = config.text.length if self.context_rows is None else self.context_rows
        if rows < 1:
            raise ExportError(f"context_rows is {rows}: give at least 1, or None for {config.text.length}")
        return rows


def build_graph(
    config: LightWAMConfig, weights: Weights, options: BuildOptions, context_mask: Iterable[bool] | None = None
) -> Graph:
    """The planned graph of a policy. Raises `ExportError` on an option that is not folded."""
    latent_shape = options.resolved_latent_shape(config)
    _check_formats(options)
    rows = options.resolved_context_rows(config)
    refuse_unfoldable(config, options.start_at, latent_shape, context_mask)
    normalization = options.normalization or Normalization.identity(config)
    normalization.check(config)
    builder = _GraphBuilder(config, weights, options, latent_shape, rows, normalization)
    programs, constants = builder.programs()
    graph = Graph(
        name=options.name or config.name,
        precision=options.precision,
        policy=policy_section(config, options.start_at, latent_shape, rows, options.normalization, options.control_hz),
        programs=programs,
        constants=constants,
    )
    return plan_graph(graph)


def folds_output(wish: CrossOutput, dit: VideoDiTConfig, tokens: int, keys: int) -> bool:
    """Whether saving 13 is applied, by `wish` or because it costs less for so many keys."""
    if wish != "auto":
        return wish == "folded"
    costs = {folded: cross_output_flops(dit, tokens, keys, folded) for folded in (True, False)}
    return _FOLDED_OUTPUT_MARGIN * costs[True] < costs[False]


def _check_formats(options: BuildOptions) -> None:
    if options.precision not in ("f32", "bf16", "f16"):
        raise ExportError(f"precision is {options.precision!r}: use 'f32', 'bf16' or 'f16'")
    if options.cross_output not in ("auto", "folded", "projected"):
        raise ExportError(f"cross_output is {options.cross_output!r}: use 'auto', 'folded' or 'projected'")
    allowed = (None, "f32", "bf16") if options.precision == "f32" else (None, options.precision)
    if options.weight_dtype not in allowed:
        raise ExportError(
            f"weight_dtype is {options.weight_dtype!r}: with precision {options.precision!r} use one of {allowed}"
        )
    streams = ("f32",) if options.precision == "f32" else ("f32", "f16")
    if options.stream_dtype not in streams:
        raise ExportError(
            f"stream_dtype is {options.stream_dtype!r}: with precision {options.precision!r} use one of {streams}"
        )


@dataclass
class _GraphBuilder:
    config: LightWAMConfig
    weights: Weights
    options: BuildOptions
    latent_shape: tuple[int, int, int]
    context_rows: int
    normalization: Normalization

    def programs(self) -> tuple[dict[str, Program], dict[str, Constant]]:
        """Both programs without dead ops, and the constants that they use."""
        constants: dict[str, Constant] = {}
        formats = Formats.of(self.options.precision, self.options.weight_dtype, self.options.stream_dtype)
        fold, fold_output = BackboneFold(self.weights, self.config), self._fold_output()

        text = ProgramBuilder(constants, "text")
        context = text.bind("context", "f32", (self.context_rows, self.config.text.width))
        text_rows = text.bind("text_rows", "i32", (1,))
        cache = BackboneBuilder(Emitter(text, formats), fold, fold_output).emit_instruction(
            context, text_rows, blocks_needed(self.config.video_dit)
        )

        act = ProgramBuilder(constants, "preprocess")
        state = act.bind("state", "f32", (1, self.config.state_dim))
        emitter = Emitter(act, formats)
        backbone = BackboneBuilder(emitter, fold, fold_output)
        own_cache = backbone.bind_instruction(cache)
        proprio_state = self._normalize_state(act, state)
        latents = self._latents(emitter)
        act.stage = "backbone"
        tokens = backbone.emit_tokens(latents)
        sources = backbone.emit_blocks(tokens, self._grid(), backbone.emit_proprio(proprio_state), own_cache)
        act.stage = "expert"
        chunk = ExpertBuilder(emitter, self.weights, self.config).emit(sources)
        act.stage = "postprocess"
        act_program = act.finish({"actions": self._to_robot_units(act, chunk)})
        read = {name for op in act_program.ops for name in op.inputs.values()}
        programs = {"set_instruction": text.finish({}, also_needed=read), "act": act_program}
        used = {name for program in programs.values() for op in program.ops for name in op.constants.values()}
        return programs, {name: made for name, made in constants.items() if name in used}

    def _fold_output(self) -> bool:
        """Whether saving 13 is applied."""
        known = () if self.options.text_rows is None else (self.options.text_rows,)
        keys = keys_in_use(assumed_text_rows(known, self.context_rows), self.context_rows)
        rows, columns = self._grid()
        return folds_output(self.options.cross_output, self.config.video_dit, rows * columns, keys)

    def _grid(self) -> tuple[int, int]:
        video = self.config.video
        factor = video.spatial_downsample if video.downsample_action_pass else 1
        (_, height, width), (_, patch_h, patch_w) = self.latent_shape, self.config.video_dit.patch_size
        return height // factor // patch_h, width // factor // patch_w

    def _latents(self, emitter: Emitter) -> Value:
        """Latents [h, w, Z] in the compute format: encoded from the images, or as delivered."""
        program, compute = emitter.program, emitter.formats.compute
        if self.options.start_at == "latents":
            delivered = program.bind("latents", "f32", self.latent_shape)
            return program.emit("nchw_to_nhwc", "latents_in", {"x": delivered}, {}, compute)
        shape = (self.config.cameras.height, self.config.cameras.width, 3)
        canvas = program.emit("preprocess_images", "canvas", {}, {}, compute, shape)
        program.stage = "vae"
        return VAEEncoderBuilder(emitter, self.weights, self.config.vae).emit(canvas)

    def _normalize_state(self, program: ProgramBuilder, state: Value) -> Value:
        """Scale, then shift, as two ops that each round once to float32, as training does.

        In one fused multiply-add the product keeps its low bits, and a state of zero deviation (scale 1e8, offset
        -mean * 1e8) would come out as noise instead of 0.
        """
        made = self.normalization
        width = len(made.state_scale)
        scaling = {"scale": _vector("state.scale", made.state_scale), "shift": _vector("state.zeros", np.zeros(width))}
        shifting = {"scale": _vector("state.ones", np.ones(width)), "shift": _vector("state.shift", made.state_offset)}
        scaled = program.emit("scale_shift_clamp", "state_scaled", {"x": state}, scaling, minimum=None, maximum=None)
        return program.emit(
            "scale_shift_clamp", "state_normalized", {"x": scaled}, shifting, minimum=-made.clamp, maximum=made.clamp
        )

    def _to_robot_units(self, program: ProgramBuilder, chunk: Value) -> Value:
        """(y - offset) / scale, without clamping, then the gripper rule, which needs robot units, so a normaliser.

        What of the rule is linear in the data's units is folded into the scaling; the threshold of a two-valued rule is
        an op of its own, and its -1 and +1 become the robot's values where those are others.
        """
        made, robot = self.normalization, self.config.robot
        scale, shift = 1.0 / made.action_scale, -made.action_offset / made.action_scale
        rule, column = (None, 0) if self.options.normalization is None else (robot.gripper, robot.gripper_column)
        if rule is not None:
            by, add = rule.to_openness if rule.two_valued else rule.linear
            scale[column], shift[column] = by * scale[column], by * shift[column] + (add or -0.0)  # keeps a -0.0
        constants = {"scale": _vector("actions.scale", scale), "shift": _vector("actions.shift", shift)}
        actions = program.emit(
            "scale_shift_clamp", "actions_in_robot_units", {"x": chunk}, constants, minimum=None, maximum=None
        )
        if rule is None or not rule.two_valued:
            return actions
        actions = program.emit("gripper_rule", "actions", {"x": actions}, column=column)
        by, add = rule.from_sign
        if (by, add) == (1.0, 0.0):
            return actions
        scale, shift = np.ones_like(scale), np.zeros_like(shift)
        scale[column], shift[column] = by, add
        constants = {"scale": _vector("gripper.scale", scale), "shift": _vector("gripper.shift", shift)}
        return program.emit(
            "scale_shift_clamp", "actions_of_robot", {"x": actions}, constants, minimum=None, maximum=None
        )


def _vector(name: str, values: object) -> Constant:
    tensor = torch.as_tensor(values, dtype=torch.float64)
    return constant(name, "f32", tuple(tensor.shape), lambda: tensor)


def with_policy(graph: Graph, constants: dict[str, Constant], **policy: object) -> Graph:
    """The graph with entries of its policy section replaced and the constants that they name added."""
    return replace(graph, policy={**graph.policy, **policy}, constants={**graph.constants, **constants})
