# SPDX-License-Identifier: Apache-2.0
"""Weights inside what trainers and wrappers put around them (docs/reference/checkpoints.md, "Wrappers").

Two kinds of wrapper: an entry of a dict that holds the state dict (`{"model": ..., "optimizer": ...}`), and parts of
names (`module.` of DDP, `_orig_mod.` of torch.compile, `base_model.model.` of PEFT). Neither needs a list of all that
exist: the first parts of our networks' names are known, and whatever stands before them is a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lightwam.errors import CheckpointError

Network = Literal["policy", "dit", "vae", "text"]

#: Where the names of each network begin, in all forms that are read (`lightwam.model.names`).
_ROOTS: dict[Network, frozenset[str]] = {
    "policy": frozenset(("mot", "state_fusion_action_expert", "proprio_encoder", "vae", "text_encoder")),
    "dit": frozenset(("blocks", "patch_embedding", "text_embedding", "time_embedding", "time_projection", "head",
                      "condition_embedder", "proj_out", "scale_shift_table")),
    "vae": frozenset(("encoder", "decoder", "conv1", "conv2", "quant_conv", "post_quant_conv")),
    "text": frozenset(("encoder", "shared", "blocks", "token_embedding", "norm")),
}  # fmt: skip
#: Parts of names that PyTorch's wrappers add at any depth; no network of ours has one.
_MARKERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)  # fmt: skip
_AVERAGES = re.compile(r"(^|[._])(ema|swa|average|averaged|avg|shadow)([._]|$)", re.IGNORECASE)
_OPTIMIZER = re.compile("optim|sched", re.IGNORECASE)
_COUNTER = "n_averaged"  # beside the weights of torch's AveragedModel
PLAIN = "plain"  # the choice of names without a wrapper, where a wrapped set lies beside them
_DEPTH = 8


@dataclass
class Unwrapped:
    """`content`: names (or the parts of a released file) -> tensors. `removed`: the wrappers, outermost first."""

    content: Mapping[str, Any]
    removed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    chosen: bool = False

    @property
    def note(self) -> str:
        """What was unwrapped, as a line without the file's name; empty where nothing was."""
        if not self.removed:
            return ""
        left = f"; left out: {', '.join(self.left_out[:8])}" + (", ..." if len(self.left_out) > 8 else "")
        return f"unwrapped {', '.join(self.removed)} ({_count(self.content)} tensors){left if self.left_out else ''}"


def unwrap(what: str, content: Mapping[str, Any], network: Network, choice: str | None = None) -> Unwrapped:
    """The network's own names out of a checkpoint's content, which stays as it is where nothing is wrapped.

    Args:
        what: the checkpoint, for errors.
        content: entry or name -> tensor, mapping, or anything else.
        network: whose names to look for.
        choice: which set of weights to take where there are several ("ema"); `chosen` says whether it was needed.

    Raises:
        CheckpointError: several sets of weights and no `choice` among them; names that become equal; PEFT's LoRA
            beside the weights that it changes; flat parameters of FSDP.
    """
    found = Unwrapped(content)
    for _ in range(_DEPTH):
        _drop_markers(what, found, _ROOTS[network])
        sets = _weight_sets(found.content, _ROOTS[network])
        name = _choose(what, sets, choice, found)
        if name is None:
            break
        _enter(name, found)
    _refuse_other_forms(what, found.content, _ROOTS[network])
    return found


def _weight_sets(content: Mapping[str, Any], roots: frozenset[str]) -> dict[str, int]:
    """Wrapper -> how many tensors of the network it holds; PLAIN for names that begin as they should."""
    sets: dict[str, int] = {}
    for name, value in content.items():
        first, _, rest = name.partition(".")
        if isinstance(value, Tensor):
            held = 1 if first in roots or not roots.isdisjoint(rest.split(".")) else 0
        else:
            held = 0 if _OPTIMIZER.search(name) else _held(value, roots, first in roots)
        if held:
            key = PLAIN if first in roots else first
            sets[key] = sets.get(key, 0) + held
    return sets


def _held(value: Any, roots: frozenset[str], below_root: bool, depth: int = _DEPTH) -> int:
    """How many tensors under a mapping belong to the network."""
    if not isinstance(value, Mapping) or depth == 0:
        return 0
    count = 0
    for name, inner in value.items():
        if not isinstance(name, str) or _OPTIMIZER.search(name):
            continue
        known = below_root or not roots.isdisjoint(name.split("."))
        count += known if isinstance(inner, Tensor) else _held(inner, roots, known, depth - 1)
    return count


def _choose(what: str, sets: dict[str, int], choice: str | None, found: Unwrapped) -> str | None:
    """The wrapper to enter; None where the names are those of the network, or nothing of it is there."""
    largest = max(sets.values(), default=0)
    rivals = [name for name, held in sets.items() if 2 * held >= largest or _AVERAGES.search(name)]
    asked = [name for name in sets if name == choice] or [name for name in sets if choice in re.split("[._]", name)]
    if choice is not None and len(asked) == 1 and (asked[0] != PLAIN or len(rivals) > 1):
        found.chosen = True
        if asked[0] == PLAIN:
            plain = {name: value for name, value in found.content.items() if name.partition(".")[0] not in sets}
            found.left_out += [name for name in rivals if name != PLAIN]
            found.removed.append(f"'{PLAIN}'")
            found.content = plain
        return None if asked[0] == PLAIN else asked[0]
    if len(rivals) > 1:
        told = ", ".join(f"{name} ({sets[name]} tensors)" for name in rivals)
        wanted = "choose one with `convert --weights`" if choice is None else f"--weights {choice} is none of them"
        raise CheckpointError(f"{what} holds several sets of weights: {told}; {wanted}")
    return None if PLAIN in rivals or not rivals else rivals[0]


def _enter(name: str, found: Unwrapped) -> None:
    """Go on with what lies under a wrapper: an entry of its own, or names that begin with it."""
    inner: dict[str, Any] = {}
    entry = found.content.get(name)
    for key, value in found.content.items():
        first, dot, rest = key.partition(".")
        if first == name and dot:
            inner[rest] = value
        elif key != name:
            label = first if isinstance(value, Tensor) else key
            if label not in found.left_out and key != _COUNTER:
                found.left_out.append(label)
    if isinstance(entry, Mapping):
        inner |= {key: value for key, value in entry.items() if isinstance(key, str)}
        found.removed.append(f"'{name}'")
    elif found.removed and found.removed[-1].endswith(".'") and found.removed[-1].strip("'.") not in _MARKERS:
        # The next part of one prefix.
        found.removed[-1] = f"{found.removed[-1][:-1]}{name}.'"
    else:
        found.removed.append(f"'{name}.'")
    found.content = inner


def _drop_markers(what: str, found: Unwrapped, roots: frozenset[str]) -> None:
    """Names without the parts that PyTorch's wrappers add; names in the parts of a released file too."""
    seen: dict[str, None] = {}
    found.content = _without_markers(what, found.content, roots, seen)
    found.removed += [f"'{marker}.'" for marker in seen if f"'{marker}.'" not in found.removed]


def _without_markers(
    what: str, content: Mapping[str, Any], roots: frozenset[str], seen: dict[str, None]
) -> Mapping[str, Any]:
    named: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, value in content.items():
        if not isinstance(name, str) or (name == _COUNTER and isinstance(value, Tensor)):
            continue
        kept = parts = name.split(".")
        if isinstance(value, Tensor):
            kept = [part for part in parts if part not in _MARKERS]
            seen.update(dict.fromkeys(part for part in parts if part in _MARKERS))
        elif isinstance(value, Mapping) and name in roots:
            value = _without_markers(what, value, roots, seen)
        short = ".".join(kept) or name
        if short in named:
            raise CheckpointError(f"{what} holds {short} twice, as {origin[short]} and {name}: save one of them")
        named[short], origin[short] = value, name
    return named


def _refuse_other_forms(what: str, content: Mapping[str, Any], roots: frozenset[str]) -> None:
    for name, value in content.items():
        parts = name.split(".")
        if {"lora_A", "lora_B", "base_layer"} & set(parts):
            raise CheckpointError(
                f"{what} holds a LoRA of PEFT that is not merged ({name}): merge it with PEFT (merge_and_unload) and "
                "save the model"
            )
        if parts[-1] in ("_flat_param", "flat_param"):
            raise CheckpointError(f"{what} holds flat parameters of FSDP ({name}): save a full state dict")
        if "parametrizations" in parts:
            how = "torch.nn.utils.parametrize.remove_parametrizations"
            raise CheckpointError(f"{what} holds parametrized weights ({name}): {how}, then save the state dict")
        if isinstance(value, Tensor) and "/" in name and name.partition("/")[0] in roots:
            raise CheckpointError(f"{what} joins the parts of names by '/' ({name}): save them joined by '.'")
    _refuse_lists(what, content, roots)


def _refuse_lists(what: str, content: Mapping[str, Any], roots: frozenset[str]) -> None:
    """Weights in a list: an average of EMA keeps its own without names. Only where no others are there."""
    if any(name.partition(".")[0] in roots for name in content):
        return
    for name, value in content.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
            remedy = "copy them into the model (an EMA's copy_to does), and save its state dict"
            raise CheckpointError(f"{what} holds {len(value)} tensors without names in {name!r}: {remedy}")
        if isinstance(value, list | tuple) and any(_held(item, roots, False) for item in value):
            raise CheckpointError(f"{what} holds a list of {len(value)} state dicts in {name!r}: save one of them")


def _count(content: Mapping[str, Any]) -> int:
    return sum(
        1 if isinstance(value, Tensor) else _count(value) if isinstance(value, Mapping) else 0
        for value in content.values()
    )
