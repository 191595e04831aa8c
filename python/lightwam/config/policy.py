# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses; `LightWAMConfig` is the root.

Presets: `libero()` and `robotwin()` are the published full-size policies (arXiv 2606.08242), `nano()` the bundled small
one; their numbers are in `presets/*.json`. `from_published()` reads the published field names, `to_dict()` and
`from_dict()` make a JSON round trip. Every constructor checks its values and raises `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightwam.config.checks import require, require_positive
from lightwam.config.flat import from_flat
from lightwam.config.networks import ActionExpertConfig, TextConfig, VAEConfig, VideoDiTConfig
from lightwam.config.objectives import FlowMatchingConfig, LossConfig, VideoConfig
from lightwam.config.published import published_parts
from lightwam.config.robot import CameraLayout, RobotConfig
from lightwam.config.serialize import dataclass_from_dict, dataclass_to_dict
from lightwam.errors import ConfigError
from lightwam.files import read_json


@dataclass(frozen=True)
class LightWAMConfig:
    """Everything that defines a policy: its robot, its networks, and its losses."""

    name: str
    robot: RobotConfig
    video_dit: VideoDiTConfig
    action_expert: ActionExpertConfig
    vae: VAEConfig
    text: TextConfig
    horizon: int
    """Actions of one chunk."""
    replan_steps: int
    """Actions to execute before the next chunk."""
    flow_matching: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    video: VideoConfig = field(default_factory=VideoConfig)

    def __post_init__(self) -> None:
        require_positive("config", horizon=self.horizon)
        require(1 <= self.replan_steps <= self.horizon, "config.replan_steps", self.replan_steps,
                f"must lie in 1..{self.horizon}")  # fmt: skip
        template = self.robot.prompt_template
        require(template in (None, self.text.prompt_template), "robot.prompt_template", template,
                f"it must equal text.prompt_template {self.text.prompt_template!r}")  # fmt: skip
        dit, expert = self.video_dit, self.action_expert
        require(self.vae.z_dim == dit.in_dim == dit.out_dim, "vae.z_dim", self.vae.z_dim,
                f"it must equal video_dit.in_dim = {dit.in_dim} and out_dim = {dit.out_dim}")  # fmt: skip
        require(self.text.width == dit.text_dim, "text.width", self.text.width, f"must equal text_dim = {dit.text_dim}")
        expert.sources_per_layer(len(dit.adapters.layers))
        require(expert.pooling == "mean" or dit.hidden_dim % expert.num_heads == 0, "action_expert.num_heads",
                expert.num_heads, f"it must divide video_dit.hidden_dim = {dit.hidden_dim}")  # fmt: skip
        require((self.video.num_frames - 1) % self.vae.temporal_factor == 0, "video.num_frames",
                self.video.num_frames, f"it must be 1 + a multiple of {self.vae.temporal_factor}")  # fmt: skip
        cell = [self.vae.spatial_factor * side for side in dit.patch_size[1:]]
        fits = self.cameras.height % cell[0] == 0 == self.cameras.width % cell[1]
        require(fits, "cameras canvas", (self.cameras.height, self.cameras.width), f"use multiples of {tuple(cell)}")

    @property
    def cameras(self) -> CameraLayout:
        """The robot's cameras on their canvas."""
        return self.robot.layout

    @property
    def state_dim(self) -> int:
        """Width of the robot's state."""
        return len(self.robot.state)

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return len(self.robot.action)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the canvas's latents."""
        return self.cameras.height // self.vae.spatial_factor, self.cameras.width // self.vae.spatial_factor

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens that the action pass sees."""
        factor = self.video.spatial_downsample if self.video.downsample_action_pass else 1
        (height, width), (_, patch_h, patch_w) = self.latent_size, self.video_dit.patch_size
        return height // factor // patch_h, width // factor // patch_w

    @staticmethod
    def libero() -> LightWAMConfig:
        """The published LIBERO policy: 441,031,543 trainable parameters, two cameras, 7-d actions.

        The loss weights are those of the LIBERO recipes (8 supervised steps).
        """
        return preset("libero")

    @staticmethod
    def robotwin() -> LightWAMConfig:
        """The published RoboTwin 2.0 policy: three cameras, 14-d joint targets; 24 supervised steps."""
        return preset("robotwin")

    @staticmethod
    def nano() -> LightWAMConfig:
        """The bundled small policy for LIBERO: same architecture, trained whole, words hashed instead of umT5.

        The VAE's latent statistics are placeholders until its training has measured them.
        """
        return preset("nano")

    @staticmethod
    def from_published(mapping: Mapping[str, Any], robot: RobotConfig | None = None) -> LightWAMConfig:
        """Read a configuration in the published field names (`lightwam.config.published`).

        They tell the widths of the robot and nothing else of it. Where `robot` is None, they must be those of LIBERO
        (state 8, action 7) or of RoboTwin (14, 14), the two published robots, and it is taken to be that one.

        Raises:
            ConfigError: a field that is missing, bad or unknown; widths that are not the robot's.
        """
        parts = published_parts(mapping)
        widths = (parts.pop("state_dim"), parts.pop("action_dim"))
        libero = preset("libero")
        known = [libero, preset("robotwin")] if robot is None else [libero.with_robot(robot)]
        bases = {(config.state_dim, config.action_dim): config for config in known}
        if widths not in bases:
            names = " or ".join(f"{config.robot.name} {sizes}" for sizes, config in bases.items())
            raise ConfigError(
                f"published configuration has (proprio_dim, action_dim) {widths}, which is not {names}: "
                "give robot=, or a robot file, of these widths"
            )
        base = bases[widths]
        text = replace(base.text, width=parts["video_dit"].text_dim)
        replan_steps = min(base.replan_steps, parts.get("horizon", base.horizon))
        return replace(base, text=text, replan_steps=replan_steps, **parts)

    def with_robot(self, robot: RobotConfig) -> LightWAMConfig:
        """This policy for another robot: widths and canvas follow, and the prompt where the robot has one."""
        template = robot.prompt_template or self.text.prompt_template
        return replace(self, robot=robot, text=replace(self.text, prompt_template=template))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` turns it back into an equal configuration."""
        return dataclass_to_dict(self)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> LightWAMConfig:
        """Inverse of `to_dict`; reads what earlier versions wrote, too (`lightwam.config.flat`).

        Raises `ConfigError` on an unknown or missing field, a wrong type or a bad value.
        """
        if isinstance(mapping, Mapping) and "robot" not in mapping and "cameras" in mapping:
            mapping = from_flat(mapping, [preset(name).robot for name in ("libero", "robotwin")])
        return dataclass_from_dict(LightWAMConfig, mapping, "config")


def preset(name: str) -> LightWAMConfig:
    """The configuration of `presets/NAME.json`."""
    path = Path(__file__).parent / "presets" / f"{name}.json"
    document = read_json(path, "preset", ConfigError, "run pip install . in a checkout again")
    return dataclass_from_dict(LightWAMConfig, document, "config")
