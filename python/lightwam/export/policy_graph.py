# SPDX-License-Identifier: Apache-2.0
"""Assembles the two programs of a policy from folded layers. No weight is touched before a constant is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lightwam.config import LightWAMConfig, VideoDiTConfig
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.costs import assumed_text_rows, text_keys
from lightwam.engine.graph import Constant, Graph, Program, Value
from lightwam.engine.memory_plan import plan_graph
from lightwam.export.backbone import BackboneBuilder, BackboneFold
from lightwam.export.expert import ExpertBuilder
from lightwam.export.fold import blocks_needed, cross_output_flops
from lightwam.export.layers import Emitter, Formats, constant
from lightwam.export.options import CrossOutput, ExportOptions
from lightwam.export.policy import Normalization, check_foldable, policy_section
from lightwam.export.vae_encoder import VAEEncoderBuilder
from lightwam.export.weights import Weights

# Saving 13 sums over few keys, and moves as many results for it: it must need so many times fewer FLOPs to be faster.
# Measured (docs/reports/performance.md): equal times near 115 keys at full size, where FLOPs alone say 139.
_FOLDED_OUTPUT_MARGIN = 1.25


def build_graph(
    config: LightWAMConfig,
    weights: Weights,
    options: ExportOptions,
    normalization: Normalization | None = None,
    text_rows: int | None = None,
) -> Graph:
    """The planned graph of a policy. Raises `ExportError` on an option that is not folded.

    `normalization`: None leaves states and actions in normalised units. `text_rows`: of the longest known instruction,
    for which saving 13 is weighed; 32 where none is known.
    """
    options.check()
    builder = _GraphBuilder(config, weights, options, normalization, text_rows)
    latent_shape, rows = builder.latent_shape, builder.context_rows
    check_foldable(config, options.start_at, latent_shape)
    builder.units.check(config)
    programs, constants = builder.programs()
    graph = Graph(
        name=options.name or config.name,
        precision=options.precision,
        policy=policy_section(config, options.start_at, latent_shape, rows, normalization, options.control_hz),
        programs=programs,
        constants=constants,
    )
    return plan_graph(graph)


def folds_output(choice: CrossOutput, dit: VideoDiTConfig, tokens: int, keys: int) -> bool:
    """Whether saving 13 is applied, by `choice` or because it costs less for so many keys."""
    if choice != "auto":
        return choice == "folded"
    costs = {folded: cross_output_flops(dit, tokens, keys, folded) for folded in (True, False)}
    return _FOLDED_OUTPUT_MARGIN * costs[True] < costs[False]


@dataclass
class _GraphBuilder:
    config: LightWAMConfig
    weights: Weights
    options: ExportOptions
    normalization: Normalization | None
    text_rows: int | None

    def __post_init__(self) -> None:
        self.latent_shape = self.options.resolved_latent_shape(self.config)
        self.context_rows = self.options.resolved_context_rows(self.config)
        self.units = self.normalization or Normalization.identity(self.config)

    def programs(self) -> tuple[dict[str, Program], dict[str, Constant]]:
        """Both programs without dead ops, and the constants that they use."""
        constants: dict[str, Constant] = {}
        options = self.options
        formats = Formats(options.precision, options.weight_dtype or options.precision, options.stream_dtype)
        fold, fold_output = BackboneFold(self.weights, self.config), self._fold_output()

        text = Emitter(constants, "text", formats)
        context = text.bind("context", "f32", (self.context_rows, self.config.text.width))
        text_rows = text.bind("text_rows", "i32", (1,))
        cache = BackboneBuilder(text, fold, fold_output).emit_instruction(
            context, text_rows, blocks_needed(self.config.video_dit)
        )

        act = Emitter(constants, "preprocess", formats)
        state = act.bind("state", "f32", (1, self.config.state_dim))
        backbone = BackboneBuilder(act, fold, fold_output)
        own_cache = backbone.bind_instruction(cache)
        proprio_state = self._normalize_state(act, state)
        latents = self._latents(act)
        act.stage = "backbone"
        tokens = backbone.emit_tokens(latents)
        sources = backbone.emit_blocks(tokens, self._grid(), backbone.emit_proprio(proprio_state), own_cache)
        act.stage = "expert"
        chunk = ExpertBuilder(act, self.weights, self.config).emit(sources)
        act.stage = "postprocess"
        act_program = act.finish({"actions": self._to_robot_units(act, chunk)})
        read = {name for op in act_program.ops for name in op.inputs.values()}
        programs = {"set_instruction": text.finish({}, also_needed=read), "act": act_program}
        used = {name for program in programs.values() for op in program.ops for name in op.constants.values()}
        return programs, {name: made for name, made in constants.items() if name in used}

    def _fold_output(self) -> bool:
        """Whether saving 13 is applied."""
        known = () if self.text_rows is None else (self.text_rows,)
        keys = text_keys(assumed_text_rows(known, self.context_rows), self.context_rows) + 1  # the proprio key
        rows, columns = self._grid()
        return folds_output(self.options.cross_output, self.config.video_dit, rows * columns, keys)

    def _grid(self) -> tuple[int, int]:
        video = self.config.video
        factor = video.spatial_downsample if video.downsample_action_pass else 1
        (_, height, width), (_, patch_h, patch_w) = self.latent_shape, self.config.video_dit.patch_size
        return height // factor // patch_h, width // factor // patch_w

    def _latents(self, program: Emitter) -> Value:
        """Latents [h, w, Z] in the compute format: encoded from the images, or as delivered."""
        compute = program.formats.compute
        if self.options.start_at == "latents":
            delivered = program.bind("latents", "f32", self.latent_shape)
            return program.emit("nchw_to_nhwc", "latents_in", {"x": delivered}, {}, compute)
        shape = (self.config.cameras.height, self.config.cameras.width, 3)
        canvas = program.emit("preprocess_images", "canvas", {}, {}, compute, shape)
        program.stage = "vae"
        return VAEEncoderBuilder(program, self.weights, self.config.vae).emit(canvas)

    def _normalize_state(self, program: ProgramBuilder, state: Value) -> Value:
        """Scale, then shift, as two ops that each round once to float32, as training does.

        One fused multiply-add keeps the low bits of scale * x, and a state of zero deviation (scale 1e8, offset
        -mean * 1e8) would come out as noise instead of 0.
        """
        made = self.units
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
        made, robot = self.units, self.config.robot
        scale, shift = 1.0 / made.action_scale, -made.action_offset / made.action_scale
        rule, column = (None, 0) if self.normalization is None else (robot.gripper, robot.gripper_column)
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
