# SPDX-License-Identifier: Apache-2.0
"""What a run inherits from the checkpoint of `--init`: whether kept weights mean the same in the new run.

Tensors of other shapes start anew (`lightwam.train.start`), and the log tells every other number of the configuration
that differs. But kept weights are of no use with another VAE, instruction encoder or normaliser than they were trained
with, and no shape shows that: such differences are refused by name, as when a run goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.normalize import read_statistics
from lightwam.files import short
from lightwam.identity import Fingerprint, covers, differences
from lightwam.model.checkpoint_folder import STATISTICS_FILE, load_checkpoint, part
from lightwam.terminal import table
from lightwam.train.fingerprint import code_identity, compare, flat, tensors_identity
from lightwam.train.run_folder import fingerprint_of

log = logging.getLogger(__name__)

_KEEP = ("init.vae", "init.config.vae", "init.config.text", "init.config.robot.normalization", "init.statistics")
_MAY_CHANGE = ("init.config.text.prompt_template", "init.config.text.length")
_UNIMPORTANT = ("init.config.name", "init.config.robot.name", "init.config.robot.notes")


def check_init(
    config: LightWAMConfig,
    init: Path,
    *,
    vae: Mapping[str, Tensor],
    statistics: Path | None = None,
    allowed: Iterable[str] = (),
) -> None:
    """Log how the new run differs from the checkpoint folder that it starts from.

    Args:
        config: of the new run.
        init: the checkpoint folder.
        vae: the run's VAE weights; empty with latent caches.
        statistics: the run's own statistics file; None: those of `init` are used.
        allowed: names that may differ although kept weights depend on them (`init.vae`, ...).

    Raises:
        RunFolderError: such a difference. CheckpointError, DataError: a file is damaged.
    """
    theirs, weights = load_checkpoint(init)
    before, now = flat("init.config", theirs.to_dict()), flat("init.config", config.to_dict())
    own = part(weights, "vae.") if vae else {}
    if own:
        before["init.vae"], now["init.vae"] = tensors_identity(own), tensors_identity(vae)
    file = init / STATISTICS_FILE
    if statistics is not None and file.is_file():
        old, new = read_statistics(file), read_statistics(statistics)
        for field in fields_kept(theirs, config):
            name = f"init.statistics.{field}"
            before[name], now[name] = _digest(old.get(field)), _digest(new.get(field))
    _log_differences(before, now, fingerprint_of(init))
    kept = [name for name in {**before, **now} if covers(_KEEP, name) and not covers(_MAY_CHANGE, name)]
    remedy = "give what it was made with, another --init, or"
    compare(before, now, f"the checkpoint {init}", allowed, kept, remedy)


def fields_kept(theirs: LightWAMConfig, ours: LightWAMConfig) -> list[str]:
    """Those of state and action that have the same width in both, so that their layers and statistics are kept."""
    pairs = {"state": (theirs.state_dim, ours.state_dim), "action": (theirs.action_dim, ours.action_dim)}
    return [name for name, (old, new) in pairs.items() if old == new]


def inherited_statistics(init: Path, config: LightWAMConfig) -> dict[str, Any] | None:
    """The statistics of a checkpoint folder where they fit the run's robot; None where they do not, or there are none.

    Raises `CheckpointError`, `DataError`.
    """
    file = init / STATISTICS_FILE
    if not file.exists():
        return None
    theirs = load_checkpoint(init)[0]
    if len(fields_kept(theirs, config)) == 2:
        return read_statistics(file)
    log.info(
        "the statistics of %s are of another robot (state %d, action %d numbers): they are measured anew",
        init, theirs.state_dim, theirs.action_dim,
    )  # fmt: skip
    return None


def _digest(node: Any) -> str:
    return hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:16]


def _log_differences(before: Fingerprint, now: Fingerprint, run: Fingerprint | None) -> None:
    found = {name: pair for name, pair in differences(before, now).items() if not covers(_UNIMPORTANT, name)}
    rows = [(name, short(old), short(new)) for name, (old, new) in found.items()]
    code = None if run is None else run.get("code")
    if code is not None and code != code_identity():
        rows.append(("code", str(code), code_identity()))
    if rows:
        log.info("%s", table(("differs from the checkpoint of --init", "there", "in this run"), rows))
