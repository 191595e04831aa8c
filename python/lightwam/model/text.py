# SPDX-License-Identifier: Apache-2.0
"""Instructions -> context rows: the published umT5 encoder, and the small hashed-word encoder of the bundled policy.

Shapes: B instructions, L context rows, E text width. Rows past the text are zero, and the mask lets all L rows be
attended to, the zero rows included (Light-WAM's convention).
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightwam.config import TextConfig
from lightwam.errors import ConfigError, InstructionError
from lightwam.extras import missing_module
from lightwam.words import clean_instruction, word_buckets

Tokenizer = Callable[[list[str], int], tuple[Tensor, Tensor]]
"""(prompts, length) -> token ids [B, length] int64 and mask [B, length], 1 on the text."""


class Context(NamedTuple):
    """rows [B, L, E] and mask [B, L]: boolean, True where a row may be attended to, or counts of equal rows."""

    rows: Tensor
    mask: Tensor


def prompt(config: TextConfig, instruction: str) -> str:
    """The instruction set into the prompt template. Raises `InstructionError` where it is no text or empty."""
    if not isinstance(instruction, str) or not clean_instruction(instruction):
        raise InstructionError(f"instruction is {instruction!r}: give a sentence")
    return config.prompt_template.replace("{task}", instruction)


class HashedWordsEncoder(nn.Module):
    """Row i = embedding[hash of word i] + position[i]. Small enough to be learned with a policy and run anywhere."""

    def __init__(self, config: TextConfig):
        super().__init__()
        if config.kind != "hashed_words":
            raise ConfigError(f"text.kind is {config.kind!r}: a HashedWordsEncoder needs 'hashed_words'")
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.buckets, config.width) * 0.5**0.5)
        self.position = nn.Parameter(torch.randn(config.length, config.width) * 0.5**0.5)

    def forward(self, instructions: Sequence[str], merged: bool = False) -> Context:
        """Context of the instructions. Raises `InstructionError` on one without words or with more than L of them.

        `merged`: one zero row after each text, and counts for a mask (`lightwam.model.context.merge_equal_rows`).
        """
        words = [self._words(instruction) for instruction in instructions]
        length, device = self.config.length, self.embedding.device
        kept = min(length, 1 + max(map(len, words))) if merged else length
        rows = torch.stack([self._rows(numbers, kept) for numbers in words])
        if not merged:
            return Context(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=device))
        texts_B1 = torch.tensor([len(numbers) for numbers in words], device=device)[:, None]
        row_K = torch.arange(kept, device=device)
        return Context(rows, (row_K < texts_B1).long() + (row_K == texts_B1) * (length - texts_B1))

    def _words(self, instruction: str) -> list[int]:
        words = word_buckets(prompt(self.config, instruction), self.config.buckets)
        if not 0 < len(words) <= self.config.length:
            raise InstructionError(f"instruction {instruction!r} has {len(words)} words: use 1..{self.config.length}")
        return words

    def _rows(self, words: list[int], length: int) -> Tensor:
        rows = self.embedding[torch.tensor(words, device=self.embedding.device)] + self.position[: len(words)]
        return nn.functional.pad(rows, (0, 0, 0, length - len(words)))


class UMT5Encoder(nn.Module):
    """The umT5 encoder of Wan2.1, run by transformers. Raises `ConfigError` where transformers is not installed."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        if config.kind != "umt5":
            raise ConfigError(f"text.kind is {config.kind!r}: a UMT5Encoder needs 'umt5'")
        self.config = config
        self.tokenizer = tokenizer
        self.encoder = _umt5_model(config)

    def encode_tokens(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Context rows [B, L, E] of tokens; the encoder sees the true mask, rows past the text are zeroed."""
        raw = self.encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        rows: Tensor = raw * mask_BL[:, :, None].to(raw.dtype)
        return rows

    def forward(self, instructions: Sequence[str]) -> Context:
        """Context of the instructions. Raises `ConfigError` where no tokenizer was given."""
        if self.tokenizer is None:
            raise ConfigError("the umT5 encoder has no tokenizer: give one, for example umt5_tokenizer(folder)")
        prompts = [clean_text(prompt(self.config, instruction)) for instruction in instructions]
        rows = self.encode_tokens(*self.tokenizer(prompts, self.config.length))
        return Context(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device))


def umt5_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer saved in `folder`, padding and truncating to the wanted length. Raises `ConfigError`."""
    transformers = _optional("transformers")
    if not os.path.isdir(folder):
        raise ConfigError(f"tokenizer {folder} is no folder: give the one that holds umT5's tokenizer")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises many classes on a folder that holds no tokenizer
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"tokenizer {folder} cannot be loaded ({reason}): give the folder of umT5's") from error

    def tokenize(prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        out = loaded(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return out.input_ids, out.attention_mask

    return tokenize


def clean_text(text: str) -> str:
    """Repair broken unicode, unescape HTML twice, collapse white space: what the encoder was fed with in training."""
    repaired: str = _optional("ftfy").fix_text(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(repaired))).strip()


def _umt5_model(config: TextConfig) -> nn.Module:
    transformers = _optional("transformers")
    settings = transformers.UMT5Config(
        vocab_size=config.vocab,
        d_model=config.width,
        d_kv=config.attention_dim // config.num_heads,
        d_ff=config.ffn_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.position_buckets,
        relative_attention_max_distance=config.max_distance,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        use_cache=False,
    )
    model: nn.Module = transformers.UMT5EncoderModel(settings).eval()
    return model


def _optional(module: str) -> Any:
    """Import a library that only this encoder needs."""
    try:
        return __import__(module)
    except ImportError as error:
        raise ConfigError(f"the umT5 encoder: {missing_module(module)}") from error
