# SPDX-License-Identifier: Apache-2.0
"""Which extras of lightwam bring a module, and the command that installs them."""

from __future__ import annotations

import re
from importlib import metadata

EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("export", "train"),
    "safetensors": ("export", "train"),
    "tensorboard": ("train",),
    "pyarrow": ("train", "libero"),
    "av": ("train", "libero"),
    "matplotlib": ("train", "libero"),
    "libero": ("libero",),
    "onnx": ("onnx",),
    "triton": ("gpu",),
    "wandb": ("wandb",),
    "ray": ("ray",),
    "transformers": ("text",),
    "sentencepiece": ("text",),
    "ftfy": ("text",),
}
"""Module -> the extras of pyproject.toml that install it."""


def missing_module(name: str, extras: tuple[str, ...] = ()) -> str:
    """One line: what is not installed, and how to install it. `extras`: all that the caller's work takes."""
    top = name.partition(".")[0]
    having = EXTRAS.get(top, ())
    if not having:
        return f"the module {name!r} is not installed: pip install {top}"
    if not set(extras) & set(having):
        extras = having[:1]
    return f"the module {name!r} is not installed: {how_to_install(extras)}"


def how_to_install(extras: tuple[str, ...]) -> str:
    """The commands that install `extras`: in a checkout, and the packages by name for one who has none.

    lightwam is on no package index, so that `pip install lightwam[...]` finds nothing.
    """
    command = f"pip install '.[{','.join(extras)}]' in a checkout of lightwam"
    packages = " ".join(f"'{package}'" for package in _requirements(extras))
    return f"{command}, or pip install {packages}" if packages else command


def _requirements(extras: tuple[str, ...]) -> list[str]:
    """The packages of the extras, as the installed lightwam lists them; none where it is not installed."""
    try:
        lines = metadata.requires("lightwam") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = [line for line in lines if any(re.search(rf"extra == ['\"]{extra}['\"]", line) for extra in extras)]
    return list(dict.fromkeys(re.sub(r"\s*;.*", "", line) for line in wanted))
