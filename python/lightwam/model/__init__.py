# SPDX-License-Identifier: Apache-2.0
"""The Light-WAM networks in PyTorch."""

from lightwam.model.text import HashedWordsEncoder, UMT5Encoder, umt5_tokenizer
from lightwam.model.vae import WanVAE
from lightwam.model.world_action_model import LightWAM

__all__ = [
    "HashedWordsEncoder",
    "LightWAM",
    "UMT5Encoder",
    "WanVAE",
    "umt5_tokenizer",
]
