# SPDX-License-Identifier: Apache-2.0
"""The Light-WAM networks in PyTorch."""

from lightwam.model.action_expert import ExpertOutput, PoolerAttention
from lightwam.model.text import Context, HashedWordsEncoder, UMT5Encoder, umt5_tokenizer
from lightwam.model.vae import WanVAE
from lightwam.model.world_action_model import LightWAM

__all__ = [
    "Context",
    "ExpertOutput",
    "HashedWordsEncoder",
    "LightWAM",
    "PoolerAttention",
    "UMT5Encoder",
    "WanVAE",
    "umt5_tokenizer",
]
