# SPDX-License-Identifier: Apache-2.0
"""Weights of several sources under our names, and everything about them that does not fit the configuration.

Our checkpoint holds the policy under its published names, the VAE under `vae.`, the small text encoder under
`text_encoder.`. The tensors gathered are those of the sources, memory-mapped: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.convert.settings import check_settings
from lightwam.convert.sources import WeightsSource
from lightwam.errors import CheckpointError
from lightwam.model import HashedWordsEncoder, LightWAM, WanVAE
from lightwam.model.fit import Fault, expected_shapes, find_faults, find_not_finite, on_meta, refuse
from lightwam.model.names import dit_names, flatten_published, vae_names
from lightwam.model.unwrap import Network

DIT, VAE, TEXT = "mot.mixtures.video.", "vae.", "text_encoder."


@dataclass
class Gathered:
    """Our name -> tensor, of all sources together; `twice` are the names that two sources hold.

    `choice` is the set of weights to take from a source that holds several; `notes` say what was unwrapped.
    """

    config: LightWAMConfig
    choice: str | None = None
    notes: list[str] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    twice: list[Fault] = field(default_factory=list)

    def add_policy(self, source: WeightsSource) -> None:
        """A released policy file, nested or flat; or the weights of a checkpoint folder of ours."""
        source = self._unwrapped(source, "policy")
        flat = flatten_published(source.tensors)
        self._add(source, flat, {name: name for name in flat})

    def add_dit(self, source: WeightsSource) -> None:
        """A Wan2.1 video DiT. Raises `CheckpointError` where its `config.json` contradicts the configuration."""
        check_settings(source, self.config, "dit")
        source = self._unwrapped(source, "dit")
        self._add(source, source.tensors, {k: DIT + name for k, name in dit_names(source.tensors).items()})

    def add_vae(self, source: WeightsSource) -> None:
        """A Wan2.1 VAE. Raises `CheckpointError` where its `config.json` contradicts the configuration."""
        check_settings(source, self.config, "vae")
        source = self._unwrapped(source, "vae")
        self._add(source, source.tensors, {k: VAE + name for k, name in vae_names(source.tensors).items()})

    def _unwrapped(self, source: WeightsSource, network: Network) -> WeightsSource:
        """Raises `CheckpointError` where the policy (or DiT) holds no set of weights that `choice` names."""
        found = source.unwrapped(network, self.choice)
        if self.choice is not None and network != "vae" and not found.chosen:
            raise CheckpointError(f"--weights is {self.choice}, but {source.path} holds no such set: leave it out")
        if found.note:
            self.notes.append(found.note)
        return found

    def _add(self, source: WeightsSource, tensors: Mapping[str, Any], names: Mapping[str, str]) -> None:
        for key, name in names.items():
            if name in self.weights:
                self.twice.append(Fault("given twice", name, f"(again as {key} in {source.path.name})"))
            self.weights[name] = tensors[key]

    @property
    def has_vae(self) -> bool:
        return any(name.startswith(VAE) for name in self.weights)

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the configuration's policy, of the VAE if there is any, of the small text encoder."""
        config = self.config
        shapes = expected_shapes(on_meta(lambda: LightWAM(config)))
        if self.has_vae:
            vae = expected_shapes(on_meta(lambda: WanVAE(config.vae)))
            shapes.update({VAE + name: shape for name, shape in vae.items()})
        if config.text.kind == "hashed_words":
            text = expected_shapes(on_meta(lambda: HashedWordsEncoder(config.text)))
            shapes.update({TEXT + name: shape for name, shape in text.items()})
        return shapes

    def misfits(self) -> list[Fault]:
        """All that is missing, unknown, given twice, of the wrong shape or type; reads no number."""
        return [*self.twice, *find_faults(self.expected(), self.weights)]

    def faults(self, on_bytes: Callable[[int], None] | None = None, dtype: torch.dtype | None = None) -> list[Fault]:
        """`misfits`, and what is not finite, as it is or in `dtype`; reads every number."""
        return [*self.misfits(), *find_not_finite(self.weights, on_bytes, dtype)]

    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(value.nbytes for value in self.weights.values() if isinstance(value, Tensor))

    def checked(
        self, what: str, on_bytes: Callable[[int], None] | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """The weights. Raises `CheckpointError` (a `MisfitError` with all faults) unless every one of them fits."""
        if not self.weights:
            raise CheckpointError(f"{what} holds no weights: give files that do")
        refuse(what, self.faults(on_bytes, dtype))
        return self.weights
