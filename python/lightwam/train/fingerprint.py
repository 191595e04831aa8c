# SPDX-License-Identifier: Apache-2.0
"""What the result of a training run depends on, and what of it differs (`lightwam.identity`).

A difference is refused by name unless it is allowed. The machine, the number of processes and how often a run saves are
not part of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightwam.config import CameraLayout, LightWAMConfig
from lightwam.data.caches import episode_fingerprint, layout_fingerprint
from lightwam.data.dataset import Dataset
from lightwam.errors import RunFolderError
from lightwam.identity import Fingerprint, Value, covers, differences, grouped, told

_CODE_FILES = ("model/**/*.py", "train/**/*.py", "data/**/*.py")


def make_fingerprint(
    *,
    seed: int,
    recipe: Any = None,
    config: LightWAMConfig | None = None,
    data: Sequence[str] = (),
    vae: str | None = None,
    text: str | None = None,
    frozen: str | None = None,
    leave_out: Iterable[str] = (),
) -> Fingerprint:
    """The fingerprint of a run.

    Args:
        seed: of everything random.
        recipe: options that the weights depend on, a dataclass or a mapping, nested as it likes.
        config: the policy.
        data: what tells each data set from others (`dataset_identity`), in their order.
        vae, text, frozen: the same of these weights (`tensors_identity`).
        leave_out: names of `recipe` that do not matter: paths, how often to save, workers, devices.
    """
    found: Fingerprint = {"seed": seed, "code": code_identity(), "vae": vae, "text": text, "frozen": frozen}
    found.update({f"data.{number}": identity for number, identity in enumerate(data)})
    if recipe is not None:
        options = dataclasses.asdict(recipe) if dataclasses.is_dataclass(recipe) else recipe  # type: ignore[arg-type]
        left = [f"recipe.{name}" for name in leave_out]
        found.update({name: value for name, value in flat("recipe", options).items() if not covers(left, name)})
    if config is not None:
        found.update(flat("config", config.to_dict()))
    return found


def flat(name: str, node: Any) -> Fingerprint:
    """A nested document as flat names, which begin with `name`."""
    if isinstance(node, Mapping):
        return {key: value for part in node for key, value in flat(f"{name}.{part}", node[part]).items()}
    if isinstance(node, (list, tuple)):
        return {key: value for i, part in enumerate(node) for key, value in flat(f"{name}.{i}", part).items()}
    return {name: node if isinstance(node, (str, int, float, bool, type(None))) else str(node)}


def dataset_identity(dataset: Dataset, layout: CameraLayout) -> str:
    """16 hex digits of a data set's rows, tasks and frames, and of their canvas; where it lies does not matter."""
    digest = hashlib.sha256(layout_fingerprint(layout).encode())
    for episode in dataset.episodes:
        digest.update(episode_fingerprint(dataset, episode, layout).encode() + episode.task.encode() + b"\0")
    return digest.hexdigest()[:16]


def tensors_identity(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of tensors and their names, types and shapes; they are read one by one."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def code_identity() -> str:
    """12 hex digits of the sources that compute a step: two versions of them may compute other numbers."""
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256(torch.__version__.encode())
    for path in sorted({path for pattern in _CODE_FILES for path in root.glob(pattern)}):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def compare(
    old: Mapping[str, Value],
    new: Mapping[str, Value],
    what: str,
    allowed: Iterable[str] = (),
    only: Iterable[str] | None = None,
    remedy: str = "give what it was made with, another --out, or",
) -> dict[str, tuple[Value, Value]]:
    """The differences that are allowed, by name.

    Args:
        old, new: of the run that is there, and of this one.
        what: names the former in the message.
        allowed: names that may differ, or what they start with (`config`, `recipe.loss`).
        only: compare only these names; None: all.
        remedy: what to do, before the way to allow them.

    Raises:
        RunFolderError: another difference; the message has the names, both values and the way to allow them.
    """
    found = differences(old, new)
    if only is not None:
        found = {name: pair for name, pair in found.items() if covers(only, name)}
    refused = {name: pair for name, pair in found.items() if not covers(allowed, name)}
    if refused:
        raise RunFolderError(
            f"{what} was made otherwise: {told(refused)}: {remedy} --allow-changed {' '.join(grouped(refused))}"
        )
    return found
