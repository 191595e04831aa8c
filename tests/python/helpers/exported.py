# SPDX-License-Identifier: Apache-2.0
"""Policies and their engine files, made once a test process. Read them; tests that change one take a copy."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from helpers.golden import golden_policy, randomize
from lightwam.config import LightWAMConfig
from lightwam.engine.graph import FloatPrecision
from lightwam.export import export_engine
from lightwam.model import LightWAM
from lightwam.model.text import HashedWordsEncoder
from lightwam.model.vae import WanVAE


@functools.cache
def nano_policy() -> tuple[LightWAM, WanVAE, HashedWordsEncoder]:
    """Nano with random weights under the names of a checkpoint folder."""
    config = LightWAMConfig.nano()
    model, vae, text = LightWAM(config), WanVAE(config.vae), HashedWordsEncoder(config.text)
    for prefix, module in (("", model), ("vae.", vae), ("text_encoder.", text)):
        randomize(module, prefix, seed=1)
    return model, vae, text


@functools.cache
def golden_engine(name: str, precision: FloatPrecision) -> Path:
    """A golden policy as an engine that starts at latents and knows the instruction "go"."""
    golden, path = golden_policy(name), _folder() / f"{name}-{precision}.lwam"
    export_engine(
        golden.model, path, start_at="latents", latent_shape=golden.latent_shape, context_rows=golden.context_rows,
        instructions={"go": golden.tensors["in.context"][0]}, parity_seeds=(), precision=precision,
    )  # fmt: skip
    return path


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="lightwam-tests-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
