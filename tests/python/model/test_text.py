# SPDX-License-Identifier: Apache-2.0
"""Text encoders: umT5 against the published implementation's numbers, hashed words against their definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.model_golden import load_json, load_tensors, relative_error
from helpers.released import load_umt5
from lightwam.config import TextConfig
from lightwam.errors import CheckpointError, ConfigError, InstructionError
from lightwam.model.text import HashedWordsEncoder, UMT5Encoder, clean_text
from lightwam.words import fnv1a_64, word_buckets

HASHED = TextConfig(kind="hashed_words", length=6, width=8, prompt_template="{task}", buckets=64)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_tensors("golden_text")


@pytest.fixture(scope="module")
def config() -> TextConfig:
    sizes = load_json("golden_text")
    return TextConfig(
        length=160,
        width=sizes["dim"],
        vocab=sizes["vocab"],
        attention_dim=sizes["dim_attn"],
        ffn_dim=sizes["dim_ffn"],
        num_heads=sizes["num_heads"],
        num_layers=sizes["num_layers"],
        position_buckets=sizes["num_buckets"],
        max_distance=sizes["max_dist"],
    )


@pytest.fixture(scope="module")
def weights(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[2:]: value for key, value in golden.items() if key.startswith("w.")}


@pytest.fixture(scope="module")
def encoder(config: TextConfig, weights: dict[str, Tensor], golden: dict[str, Tensor]) -> UMT5Encoder:
    def tokenizer(prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        assert length == 160 and all(p.startswith("A video recorded from a robot's point of view") for p in prompts)
        return golden["in.ids"][: len(prompts)], golden["in.mask"][: len(prompts)]

    return load_umt5(UMT5Encoder(config, tokenizer), weights).requires_grad_(False)


def test_umt5_blocks_and_output(encoder: UMT5Encoder, golden: dict[str, Tensor]) -> None:
    out = encoder.encoder(input_ids=golden["in.ids"], attention_mask=golden["in.mask"], output_hidden_states=True)
    text = golden["in.mask"][:, :, None].bool()  # rows past the text are undefined
    for layer in range(2):
        kept = golden[f"out.block.{layer}"]  # the first rows only
        rows = slice(kept.shape[1])
        assert relative_error(out.hidden_states[layer + 1][:, rows] * text[:, rows], kept * text[:, rows]) < 1e-5, layer
    assert relative_error(out.last_hidden_state * text, golden["out.raw"] * text) < 1e-5
    assert relative_error(encoder.encode_tokens(golden["in.ids"], golden["in.mask"]), golden["out.prompt_emb"]) < 1e-5


def test_umt5_context_of_instructions(encoder: UMT5Encoder, golden: dict[str, Tensor]) -> None:
    rows, mask = encoder(["open the drawer", "close it"])
    assert relative_error(rows, golden["out.prompt_emb"]) < 1e-5
    assert mask.shape == rows.shape[:2] and bool(mask.all())


def test_umt5_refuses_a_wrong_checkpoint(config: TextConfig, weights: dict[str, Tensor]) -> None:
    broken = {key: value for key, value in weights.items() if key != "blocks.1.norm2.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing: encoder.block.1.layer.1.layer_norm.weight"):
        load_umt5(UMT5Encoder(config), broken)


def test_umt5_full_size_keys_and_shapes() -> None:
    reference = {key: tuple(shape) for key, (shape, _) in load_json("reference_keys")["text_encoder"].items()}
    with torch.device("meta"):
        encoder = UMT5Encoder(TextConfig())
        load_umt5(encoder, {key: torch.empty(shape) for key, shape in reference.items()})
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336


def test_umt5_needs_a_tokenizer(config: TextConfig) -> None:
    with pytest.raises(ConfigError, match="has no tokenizer"):
        UMT5Encoder(config)(["open the drawer"])


def test_text_is_cleaned() -> None:
    assert clean_text("  put &amp;amp; place\n the\tmug ") == "put & place the mug"


def test_fnv1a_known_values() -> None:
    assert fnv1a_64(b"") == 0xCBF29CE484222325
    assert fnv1a_64(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a_64(b"foobar") == 0x85944171F73967E8


def test_words_split_and_lower_case_in_ascii_only() -> None:
    assert word_buckets("Pick-up the CAN, now!", 1 << 64) == [
        fnv1a_64(w) for w in (b"pick", b"up", b"the", b"can", b"now")
    ]
    assert word_buckets("Ähre7", 1 << 64) == [fnv1a_64("Ähre7".encode()[:2] + b"hre7")]


def test_hashed_words_rows() -> None:
    encoder = HashedWordsEncoder(HASHED)
    rows, mask = encoder(["pick up", "Pick, UP!"])
    word = encoder.embedding[fnv1a_64(b"up") % 64] + encoder.position[1]
    torch.testing.assert_close(rows[0, 1], word)
    assert torch.equal(rows[0], rows[1]) and not rows[0, 2:].any()
    assert mask.shape == (2, 6) and bool(mask.all())
    rows.sum().backward()
    assert encoder.embedding.grad is not None


@pytest.mark.parametrize("instruction", ["", "  ", "...", "a b c d e f g", 3])
def test_hashed_words_refuse(instruction: str) -> None:
    with pytest.raises(InstructionError, match="instruction"):
        HashedWordsEncoder(HASHED)([instruction])


def test_kinds_are_not_mixed_up(config: TextConfig) -> None:
    with pytest.raises(ConfigError, match="hashed_words"):
        HashedWordsEncoder(config)
    with pytest.raises(ConfigError, match="umt5"):
        UMT5Encoder(HASHED)
