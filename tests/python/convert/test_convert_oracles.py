# SPDX-License-Identifier: Apache-2.0
"""Networks of diffusers and transformers, saved by them, converted by us, compared output by output.

Tolerance 1e-5 of the largest output: both sides compute in float32 and sum in different orders.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from helpers.convert_fixtures import DIT, GOLDEN, TEXT, inputs, policy_weights, published, small_config
from lightwam.cli import convert as command
from lightwam.config import TextConfig
from lightwam.convert.checkpoint import ConvertArgs
from lightwam.convert.instructions import (
    cached_instructions,
    encode_instructions,
    open_umt5,
    umt5_faults,
    write_text_cache,
)
from lightwam.convert.sources import open_weights
from lightwam.data.published_caches import PublishedTexts
from lightwam.errors import CheckpointError
from lightwam.export.checkpoint import open_checkpoint
from lightwam.model.text import clean_text, prompt


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.fixture
def arguments(tmp_path: Path) -> ConvertArgs:
    return inputs(tmp_path)


def transformer() -> Any:
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=16, out_channels=16,
        text_dim=20, freq_dim=16, ffn_dim=64, num_layers=3, rope_max_seq_len=32,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("shard_size", ["1GB", "100KB"])
@torch.no_grad()
def test_dit_of_diffusers(tmp_path: Path, arguments: ConvertArgs, shard_size: str) -> None:
    oracle = transformer()
    oracle.save_pretrained(tmp_path / "transformer", max_shard_size=shard_size)
    assert (len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1) == (shard_size == "100KB")
    command.main(replace(arguments, policy=None, dit=tmp_path / "transformer", fresh=0))
    model = open_checkpoint(arguments.out).model.video_dit
    generator = torch.Generator().manual_seed(1)
    latents, context = torch.randn(2, 16, 3, 4, 8, generator=generator), torch.randn(2, 5, 20, generator=generator)
    timestep = torch.tensor([831.0, 40.0])
    per_token = timestep[:, None].repeat(1, 3 * 2 * 4)
    per_token[:, : 2 * 4] = 0  # the first latent frame is clean
    expected = oracle(latents, per_token, context, return_dict=False)[0]
    given = model.prepare(latents, timestep, context, None)
    assert relative_error(model.predict(model.run_blocks(given).tokens_BSD, given), expected) < 1e-5


@torch.no_grad()
def test_vae_of_diffusers(tmp_path: Path, arguments: ConvertArgs) -> None:
    torch.manual_seed(0)
    oracle = diffusers.AutoencoderKLWan(base_dim=8, z_dim=16, latents_mean=[0.0] * 16, latents_std=[1.0] * 16).eval()
    oracle.save_pretrained(tmp_path / "vae")
    command.main(replace(arguments, vae=tmp_path / "vae"))
    vae = open_checkpoint(arguments.out).vae
    clip = torch.rand(1, 3, 5, 32, 16) * 2 - 1
    moments = oracle.encode(clip).latent_dist
    mean, log_variance = vae.encode_moments(clip)
    assert relative_error(mean, moments.mean) < 1e-5
    assert relative_error(log_variance.clamp(-30, 20), moments.logvar) < 1e-5
    assert relative_error(vae.decode(mean), oracle.decode(moments.mean).sample) < 1e-5


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A small encoder and a word tokenizer of transformers, and the folder that both are saved in."""
    folder = tmp_path_factory.mktemp("umt5")
    torch.manual_seed(0)
    settings = transformers.UMT5Config(
        vocab_size=TEXT.vocab, d_model=TEXT.width, d_kv=8, d_ff=TEXT.ffn_dim, num_layers=2, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )  # fmt: skip
    model = transformers.UMT5EncoderModel(settings).eval()
    model.save_pretrained(folder / "encoder")
    words = clean_text(prompt(TEXT, "open the drawer")).replace("'", " ' ").replace(":", " :").split()
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: 3 + i for i, word in enumerate(dict.fromkeys(words))}}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "tokenizer")
    return model, tokenizer, folder


@torch.no_grad()
def test_umt5_of_transformers_through_the_command(arguments: ConvertArgs, umt5: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = umt5
    texts = ("open the drawer", "the drawer")
    command.main(
        replace(arguments, instructions=texts, text_encoder=folder / "encoder", tokenizer=folder / "tokenizer")
    )
    known = open_checkpoint(arguments.out).instructions
    assert set(known) == set(texts)
    for text in texts:
        given = tokenizer(
            clean_text(prompt(TEXT, text)), padding="max_length", truncation=True, max_length=12, return_tensors="pt"
        )
        rows = model(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state[0]
        count = int(given.attention_mask.sum())
        assert relative_error(known[text], rows[:count]) < 1e-5


def test_a_text_cache_is_written_as_the_published_one(umt5: tuple[Any, Any, Path], tmp_path: Path) -> None:
    _, _, folder = umt5
    config, texts = small_config(), ["open the drawer", "the drawer"]
    given = (tmp_path / "texts", texts, folder / "encoder", folder / "tokenizer")
    assert write_text_cache(config, *given) == 2 and write_text_cache(config, *given) == 0
    rows = cached_instructions(config.text, tmp_path / "texts", texts)
    reader = PublishedTexts(tmp_path / "texts", config.text)
    for text in texts:
        context, mask = reader.context(prompt(config.text, text))
        assert torch.equal(context[: len(rows[text])], rows[text]) and not context[len(rows[text]) :].any()
        assert context.dtype == torch.bfloat16 and mask.all()
    assert write_text_cache(config, tmp_path / "texts", [*texts, "open"], *given[2:]) == 1


def test_umt5_under_official_names(tmp_path: Path) -> None:
    """The published implementation's own encoder and numbers (golden_text), through a file as published."""
    golden, sizes = load_file(GOLDEN / "golden_text.safetensors"), json.loads((GOLDEN / "golden_text.json").read_text())
    torch.save({k.removeprefix("w."): v.float() for k, v in golden.items() if k.startswith("w.")}, tmp_path / "t.pth")
    config = TextConfig(
        length=golden["in.ids"].shape[1], width=sizes["dim"], vocab=sizes["vocab"], attention_dim=sizes["dim_attn"],
        ffn_dim=sizes["dim_ffn"], num_heads=sizes["num_heads"], num_layers=sizes["num_layers"],
        position_buckets=sizes["num_buckets"], max_distance=sizes["max_dist"],
    )  # fmt: skip
    weights = open_umt5(replace(small_config(), text=config, video_dit=replace(DIT, text_dim=config.width)),
                        open_weights(tmp_path / "t.pth"))  # fmt: skip
    assert umt5_faults(config, weights) == []

    def tokenizer(prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        return golden["in.ids"][:1], golden["in.mask"][:1]

    rows = encode_instructions(config, weights, tokenizer, ["open the drawer"])["open the drawer"]
    assert relative_error(rows, golden["out.prompt_emb"][0, : len(rows)].float()) < 1e-5
    assert not golden["out.prompt_emb"][0, len(rows) :].any()
    weights["shared.weight"] = weights["shared.weight"].clone()
    weights["shared.weight"][0, 0] = torch.nan
    assert [(fault.kind, fault.name) for fault in umt5_faults(config, weights)] == [
        ("not finite", "encoder.shared.weight")
    ]


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("dit", {"num_attention_heads": 4}, "num_attention_heads 4, the configuration 2"),
        ("dit", {"eps": 1e-5}, "eps 1e-05"),
        ("dit", {"qk_norm": None}, "qk_norm None"),
        ("dit", {"image_dim": 1280}, "image_dim 1280"),
        ("vae", {"latents_mean": [0.1] * 16}, "latents_mean"),
        ("vae", {"temperal_downsample": [True, True, False]}, "temperal_downsample"),
    ],
)
def test_settings_that_shapes_do_not_tell(
    tmp_path: Path, arguments: ConvertArgs, given: str, part: str, change: dict[str, Any], named: str
) -> None:
    oracle = transformer() if part == "dit" else diffusers.AutoencoderKLWan(
        base_dim=8, latents_mean=[0.0] * 16, latents_std=[1.0] * 16
    )  # fmt: skip
    oracle.save_pretrained(tmp_path / part)
    file = tmp_path / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    weights = tmp_path / part if given == "folder" else next((tmp_path / part).glob("*.safetensors"))
    options = {"policy": None, "dit": weights, "fresh": 0} if part == "dit" else {"vae": weights}
    with pytest.raises(CheckpointError, match=named):
        command.main(replace(arguments, **options))
    assert not arguments.out.exists()


def test_a_vae_without_its_decoder_is_refused(tmp_path: Path, arguments: ConvertArgs) -> None:
    torch.save(published(policy_weights(small_config())), tmp_path / "policy.pt")
    tensors = torch.load(tmp_path / "vae.pth")
    torch.save({k: v for k, v in tensors.items() if not k.startswith("decoder.")}, tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match=r"missing: vae\.model\.decoder"):
        command.main(arguments)
