# SPDX-License-Identifier: Apache-2.0
"""What `--init` may start from: differences that make kept weights useless are refused by name, the others are told."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.built_once import BuiltOnce
from helpers.golden_data import LEROBOT
from helpers.robots import numbered, with_robot
from helpers.training import policy_args, published_setup, tiny_config
from lightwam.cli import train
from lightwam.config import LightWAMConfig
from lightwam.errors import RunFolderError
from lightwam.model.checkpoint_folder import load_checkpoint, part, save_checkpoint
from lightwam.train import inherit
from lightwam.train.distributed import World
from lightwam.train.inherit import check_init, inherited_statistics
from lightwam.train.policy import build_policy, policy_fingerprint


@pytest.fixture(scope="session")
def checkpoint(built_once: BuiltOnce, folders: Path) -> Path:
    """Of a run of four steps."""
    made = built_once("policy_run", lambda root: train.main(policy_args(folders, root / "run")))
    return made / "run/checkpoint"


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def check(checkpoint: Path, config: LightWAMConfig | None = None, **changes: Any) -> None:
    own, weights = load_checkpoint(checkpoint)
    check_init(config or own, checkpoint, **{"vae": part(weights, "vae."), **changes})


def test_the_same_is_silent(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check(checkpoint)
    check(checkpoint, vae={}, statistics=checkpoint / "stats.json")
    assert "differs" not in told(caplog)


def test_another_vae_is_refused_unless_allowed(
    checkpoint: Path, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = policy_args(folders, tmp_path, init=checkpoint)
    _, weights = load_checkpoint(folders / "vae/checkpoint")
    weights = {name: value.clone() for name, value in weights.items()}
    next(iter(weights.values())).view(-1)[0] += 1e-6
    save_checkpoint(tmp_path / "vae", load_checkpoint(folders / "vae/checkpoint")[0], weights)
    args = dataclasses.replace(args, inputs=dataclasses.replace(args.inputs, vae=tmp_path / "vae", cache=None))
    line = r"the checkpoint .* was made otherwise: init\.vae is .*another --init, or --allow-changed init\.vae$"
    with pytest.raises(RunFolderError, match=line):
        build_policy(args.resolved(), args.inputs, World(), args.out)
    caplog.set_level(logging.INFO)
    build_policy(args.resolved(), args.inputs, World(), args.out, ("init.vae",))
    assert "init.vae" in told(caplog)


def with_text(config: LightWAMConfig, **changes: Any) -> LightWAMConfig:
    return dataclasses.replace(config, text=dataclasses.replace(config.text, **changes))


def test_what_kept_weights_depend_on_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config, _ = load_checkpoint(checkpoint)
    with pytest.raises(RunFolderError, match=r"init\.config\.text\.buckets is 32 instead of 64: .*init\.config\.text"):
        check(checkpoint, with_text(config, buckets=32))
    other = dataclasses.replace(config.robot.normalization, action="z-score")
    with pytest.raises(RunFolderError, match=r"init\.config\.robot\.normalization\.action is .z-score. instead of"):
        check(checkpoint, with_robot(config, normalization=other))
    statistics = json.loads((checkpoint / "stats.json").read_text())
    (tmp_path / "same.json").write_text(json.dumps(statistics, indent=2))
    check(checkpoint, statistics=tmp_path / "same.json")
    statistics["action"]["default"]["global_max"][0] += 1
    (tmp_path / "other.json").write_text(json.dumps(statistics))
    with pytest.raises(RunFolderError, match=r"init\.statistics\.action is .* --allow-changed"):
        check(checkpoint, statistics=tmp_path / "other.json")
    check(checkpoint, statistics=tmp_path / "other.json", allowed=("init.statistics",))


def test_everything_else_is_told(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(inherit, "code_identity", lambda: "newer")
    config, _ = load_checkpoint(checkpoint)
    changed = with_text(with_robot(config, control_hz=7.0), prompt_template="Now {task}")
    check(checkpoint, dataclasses.replace(changed, replan_steps=1))
    names = ("robot.control_hz", "text.prompt_template", "replan_steps")
    assert all(name in told(caplog) for name in (*(f"init.config.{name}" for name in names), "newer"))


def test_statistics_of_another_robot_are_measured_anew(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = tiny_config()
    assert inherited_statistics(checkpoint, config) is not None
    assert inherited_statistics(checkpoint, with_robot(config, state=numbered(6))) is None
    assert "of another robot (state 8, action 7 numbers): they are measured anew" in told(caplog)


def test_other_frozen_weights_are_another_run(tmp_path: Path) -> None:
    args = published_setup(tmp_path / "run", LEROBOT / "latents_sharded_v1")
    subject, recipe = build_policy(args.resolved(), args.inputs, World(), args.out)
    before = policy_fingerprint(recipe, args.inputs, subject)
    frozen = next(p for p in subject.networks.parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0] += 1
    after = policy_fingerprint(recipe, args.inputs, subject)
    assert {name for name in before if before[name] != after[name]} == {"frozen"}
