# SPDX-License-Identifier: Apache-2.0
"""The `policy` section of an engine (engine-format.md, section 2), and the errors for what is not folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightwam.config import Dimension, LightWAMConfig, RobotConfig
from lightwam.engine.dtypes import Array
from lightwam.errors import ExportError
from lightwam.export.fold import action_pass_needs_no_mask
from lightwam.export.options import StartAt


@dataclass(frozen=True)
class Normalization:
    """normalised = robot * scale + offset, per field [P] or [A] (float64); `clamp` limits the normalised state.

    Ranges [2, P] and [2, A]: smallest and largest value seen in training, in the units of the data; None: not known.
    """

    state_scale: Array
    state_offset: Array
    action_scale: Array
    action_offset: Array
    clamp: float
    state_range: Array | None = None
    action_range: Array | None = None

    @staticmethod
    def identity(config: LightWAMConfig) -> Normalization:
        """For engines that take normalised states and return normalised actions (tests, latency)."""
        state, action = config.state_dim, config.action_dim
        return Normalization(
            np.ones(state), np.zeros(state), np.ones(action), np.zeros(action), config.robot.normalization.clamp
        )

    @staticmethod
    def from_statistics(config: LightWAMConfig, statistics: Mapping[str, Any]) -> Normalization:
        """By the configuration's modes, from a statistics file's content. Raises `DataError` or `ExportError`."""
        from lightwam.data.normalize import measured_range, normalizers

        state, action = normalizers(config, statistics)
        state_scale, state_offset, action_scale, action_offset = (
            np.asarray(vector, np.float64) for vector in (state.scale, state.offset, action.scale, action.offset)
        )
        made = Normalization(
            state_scale,
            state_offset,
            action_scale,
            action_offset,
            state.clamp,
            measured_range(statistics, "state", config.state_dim),
            measured_range(statistics, "action", config.action_dim),
        )
        made.check(config)
        return made

    def check(self, config: LightWAMConfig) -> None:
        """Raises `ExportError` on widths that do not fit, scales of zero, NaN or infinity."""
        widths = {"state": config.state_dim, "action": config.action_dim}
        for field, width in widths.items():
            limits = getattr(self, f"{field}_range")
            if limits is not None and (np.shape(limits) != (2, width) or not np.isfinite(limits).all()):
                raise ExportError(f"normalizer {field}_range is {limits}: give finite numbers [2, {width}], or None")
            for part in ("scale", "offset"):
                given = getattr(self, f"{field}_{part}")
                if isinstance(given, np.ma.MaskedArray):
                    raise ExportError(f"normalizer {field}_{part} is a masked array: give plain numbers, all of them")
                vector = np.asarray(given)
                if (
                    vector.dtype.kind not in "fiu"
                    or vector.shape != (width,)
                    or not np.isfinite(vector).all()
                    or (part == "scale" and not vector.all())
                ):
                    raise ExportError(
                        f"normalizer {field}_{part} is {vector.tolist()}: give {width} finite numbers, no scale of zero"
                    )

    def to_json(self) -> dict[str, Any]:
        fields = ("state_scale", "state_offset", "action_scale", "action_offset")
        return {**{field: np.asarray(getattr(self, field)).tolist() for field in fields}, "clamp": self.clamp}


def check_foldable(config: LightWAMConfig, start_at: StartAt, latent_shape: tuple[int, int, int]) -> None:
    """Raise `ExportError`, naming option and value, for whatever the folds do not cover."""
    if not action_pass_needs_no_mask(config):
        raise ExportError(f"video_dit.attention_mask is {config.video_dit.attention_mask!r}: it masks a single frame")
    if config.video_dit.patch_size[0] != 1:
        raise ExportError(f"video_dit.patch_size is {config.video_dit.patch_size}: the first number must be 1 to fold")
    factor = config.video.spatial_downsample if config.video.downsample_action_pass else 1
    cell = [factor * side for side in config.video_dit.patch_size[1:]]
    if latent_shape[0] != config.video_dit.in_dim or latent_shape[1] % cell[0] or latent_shape[2] % cell[1]:
        raise ExportError(
            f"latent_shape is {list(latent_shape)}: give [{config.video_dit.in_dim}, h, w], h and w multiples of {cell}"
        )
    if cell[0] != cell[1]:
        raise ExportError(f"video_dit.patch_size is {config.video_dit.patch_size}: only square patches are folded")
    if start_at == "images":
        for camera in config.cameras.cameras:
            if camera.on_robot not in ("upright", "rotated_180"):
                raise ExportError(
                    f"camera {camera.name} has on_robot {camera.on_robot!r}: an engine turns by 180 degrees or not"
                )


def policy_section(
    config: LightWAMConfig,
    start_at: StartAt,
    latent_shape: tuple[int, int, int],
    context_rows: int,
    normalization: Normalization | None,
    control_hz: float | None,
) -> dict[str, Any]:
    """Everything but the text encoder and the known instructions."""
    images = start_at == "images"
    cameras = [
        {
            "name": camera.name,
            "rect": [camera.top, camera.left, camera.height, camera.width],
            "rotate_180": camera.on_robot == "rotated_180",
        }
        for camera in (config.cameras.cameras if images else ())
    ]
    return {
        "starts_at": start_at,
        "canvas": [config.cameras.height, config.cameras.width] if images else None,
        "cameras": cameras,
        "latent_shape": list(latent_shape),
        "state_width": config.state_dim,
        "action_width": config.action_dim,
        "horizon": config.horizon,
        "replan": config.replan_steps,
        "context_rows": context_rows,
        "text_width": config.text.width,
        "prompt_template": config.text.prompt_template,
        "text_encoder": None,
        "instructions": [],
        "normalizer": None if normalization is None else normalization.to_json(),
        "state": _dimensions(
            config.robot.state, normalization, None if normalization is None else normalization.state_range
        ),
        "action": _dimensions(config.robot.action, normalization, _range_on_robot(config.robot, normalization)),
        "gripper": None if config.robot.gripper is None or normalization is None else str(config.robot.gripper),
        "control_hz": config.robot.control_hz if control_hz is None else control_hz,
    }


def _dimensions(
    dimensions: Sequence[Dimension], normalization: Normalization | None, limits: Array | None
) -> list[dict[str, Any]]:
    """Name, unit and range in training of each number; without a normalisation its unit is '1', a plain number."""
    ranges = [None] * len(dimensions) if limits is None else np.asarray(limits, np.float64).T.tolist()
    return [
        {"name": dimension.name, "unit": "1" if normalization is None else dimension.unit, "range": limit}
        for dimension, limit in zip(dimensions, ranges, strict=True)
    ]


def _range_on_robot(robot: RobotConfig, normalization: Normalization | None) -> Array | None:
    """The actions' range behind the gripper rule."""
    if normalization is None or normalization.action_range is None:
        return None
    limits = np.array(normalization.action_range, np.float64)
    if robot.gripper is not None:
        ends = robot.gripper.to_robot(limits[:, robot.gripper_column])
        if robot.gripper.two_valued:
            ends = np.array([robot.gripper.robot_open, robot.gripper.robot_closed])
        limits[:, robot.gripper_column] = np.sort(ends)
    return limits
