# SPDX-License-Identifier: Apache-2.0
"""What each exact saving is worth for a configuration: a ledger of the published action pass, folded step by step.

A ledger maps parts of the pass to (FLOPs of one chunk, numbers read from memory for it). It starts from the published
computation and every saving replaces some entries; what is left equals the exported graph's own count (a test holds
that). Products only, 2 FLOPs a multiply-add. Bytes: weights of products at 2 bytes, and the large per-token tables of
the published code at the formats it uses. Symbols: S tokens, L context rows, D hidden, I attention width, F FFN width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightwam.config import LightWAMConfig, VAEConfig
from lightwam.engine.costs import keys_in_use


@dataclass(frozen=True)
class Cost:
    """FLOPs of one chunk, product weights that are read, and bytes of other large tables."""

    flops: int = 0
    weights: int = 0
    table_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.weights + other.weights, self.table_bytes + other.table_bytes)

    def times(self, count: int) -> Cost:
        return Cost(count * self.flops, count * self.weights, count * self.table_bytes)

    @property
    def num_bytes(self) -> int:
        return 2 * self.weights + self.table_bytes


Ledger = dict[str, Cost]


@dataclass(frozen=True)
class Saving:
    """One line of the table: totals before and after the saving was applied to what the ones above it left."""

    number: int
    what: str
    before: Cost
    after: Cost


def product(rows: int, in_dim: int, out_dim: int) -> Cost:
    """A linear on `rows` rows."""
    return Cost(2 * rows * in_dim * out_dim, in_dim * out_dim)


def total(ledger: Ledger) -> Cost:
    """Sum of all entries."""
    return sum(ledger.values(), Cost())


@dataclass(frozen=True)
class _Sizes:
    """The numbers that the formulas share."""

    config: LightWAMConfig
    text_rows: int

    @property
    def tokens(self) -> int:
        rows, columns = self.config.token_grid
        return rows * columns

    @property
    def context(self) -> int:
        return self.config.text.length

    @property
    def keys(self) -> int:
        """Keys of a cross-attention behind saving 7."""
        return keys_in_use(self.text_rows, self.context)

    @property
    def needed(self) -> int:
        return self.config.video_dit.adapters.layers[-1] + 1

    def lora(self, rows: int, module: str, in_dim: int, out_dim: int) -> Cost:
        """One low-rank update in every block that has it."""
        lora = self.config.video_dit.lora
        if lora is None or module not in lora.modules:
            return Cost()
        return product(rows, in_dim, lora.rank) + product(rows, lora.rank, out_dim)

    def lora_block(self, layer: int) -> Cost:
        dit, lora = self.config.video_dit, self.config.video_dit.lora
        if lora is None or layer not in lora.layers:
            return Cost()
        hidden, inner, tokens = dit.hidden_dim, dit.attention_dim, self.tokens
        cost = Cost()
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                rows = self.context + 1 if attention == "cross_attn" and part in "kv" else tokens
                sides = (inner, hidden) if part == "o" else (hidden, inner)
                cost += self.lora(rows, f"{attention}.{part}", *sides)
        return cost + self.lora(tokens, "ffn.0", hidden, dit.ffn_dim) + self.lora(tokens, "ffn.2", dit.ffn_dim, hidden)


def published_ledger(config: LightWAMConfig, text_rows: int) -> Ledger:
    """The published action pass from images: everything runs, nothing is folded."""
    sizes = _Sizes(config, text_rows)
    return {**_vae_ledger(config), **_backbone_ledger(sizes), **_expert_ledger(sizes)}


def _vae_ledger(config: LightWAMConfig) -> Ledger:
    """The encoder of one frame; 3x3x3 kernels with all their taps."""
    vae = config.vae
    height, width = config.cameras.height, config.cameras.width
    taps, plain = Cost(), Cost()
    dim, pixels = vae.base_dim, height * width
    taps += product(pixels, 9 * 3, dim)
    for level, multiplier in enumerate(vae.multipliers):
        out = vae.base_dim * multiplier
        for _ in range(vae.num_res_blocks):
            taps += product(pixels, 9 * dim, out) + product(pixels, 9 * out, out)
            plain += product(pixels, dim, out) if dim != out else Cost()
            dim = out
        if level < len(vae.multipliers) - 1:
            pixels //= 4
            plain += product(pixels, 9 * dim, dim)
    taps += product(pixels, 9 * dim, dim).times(4)  # the two residual blocks in the middle
    plain += product(pixels, dim, dim).times(4) + Cost(4 * pixels * pixels * dim)
    head = product(pixels, 9 * dim, vae.z_dim)
    return {
        "vae.causal": taps.times(3),
        "vae.plain": plain,
        "vae.head_mean": head.times(3),
        "vae.head_log_variance": head.times(3),
        "vae.last": product(pixels, 2 * vae.z_dim, 2 * vae.z_dim),
        "vae.temporal": Cost(0, sum(_temporal_weights(vae, 3))),
        "vae.decoder": Cost(0, _decoder_weights(vae)),
    }


def _temporal_weights(vae: VAEConfig, taps: int) -> list[int]:
    """Weights of the down-samplers' temporal convolutions, which a first frame never meets."""
    widths = [vae.base_dim * multiplier for multiplier in vae.multipliers]
    return [taps * width * width for width, down in zip(widths, vae.temporal_downsample, strict=False) if down]


def _decoder_weights(vae: VAEConfig) -> int:
    widths = [vae.base_dim * multiplier for multiplier in reversed(vae.multipliers)]
    temporal = list(reversed(vae.temporal_downsample))
    dim = widths[0]
    count = vae.z_dim * vae.z_dim + 27 * vae.z_dim * dim + 4 * 27 * dim * dim + 4 * dim * dim
    for level, width in enumerate(widths):
        for _ in range(vae.num_res_blocks + 1):
            count += 27 * dim * width + 27 * width * width + (dim * width if dim != width else 0)
            dim = width
        if level < len(widths) - 1:
            count += 9 * dim * (dim // 2) + (3 * dim * 2 * dim if temporal[level] else 0)
            dim //= 2
    return count + 27 * dim * 3


def _backbone_ledger(sizes: _Sizes) -> Ledger:
    config, dit = sizes.config, sizes.config.video_dit
    hidden, inner, tokens, context = dit.hidden_dim, dit.attention_dim, sizes.tokens, sizes.context
    needed, dropped = sizes.needed, dit.num_layers - sizes.needed
    _, patch_h, patch_w = dit.patch_size
    factor = config.video.spatial_downsample if config.video.downsample_action_pass else 1
    block = {
        "self": product(tokens, hidden, inner).times(3) + product(tokens, inner, hidden)
        + Cost(4 * tokens * tokens * inner),
        "cross_q_o": product(tokens, hidden, inner) + product(tokens, inner, hidden),
        "cross_kv_text": Cost(product(context, hidden, inner).times(2).flops),
        "cross_kv_proprio": product(1, hidden, inner).times(2),
        "cross_attention": Cost(4 * tokens * (context + 1) * inner),
        "ffn": product(tokens, hidden, dit.ffn_dim) + product(tokens, dit.ffn_dim, hidden),
        "masks": Cost(table_bytes=tokens * (tokens + context + 1)),
        "time_vectors": Cost(table_bytes=2 * 4 * tokens * 6 * hidden),
    }  # fmt: skip
    ledger = {f"blocks.{name}": cost.times(needed) for name, cost in block.items()}
    adapters = product(tokens, hidden, dit.adapters.dim) + product(tokens, dit.adapters.dim, hidden)
    per_token_time = product(tokens, dit.freq_dim, hidden) + product(tokens, hidden, hidden)
    patches = product(tokens, dit.in_dim * patch_h * patch_w, hidden)
    return {
        **ledger,
        "lora": sum((sizes.lora_block(layer) for layer in range(needed)), Cost()),
        "adapters": adapters.times(len(dit.adapters.layers)),
        "patches": Cost(factor**2 * patches.flops, factor**2 * patches.weights) if factor > 1 else patches,
        "text_embedding.text": Cost(
            product(context, dit.text_dim, hidden).flops + product(context, hidden, hidden).flops,
            dit.text_dim * hidden,
        ),
        "text_embedding.proprio": Cost(product(1, dit.text_dim, hidden).flops) + product(1, hidden, hidden),
        "proprio_encoder": product(1, config.state_dim, dit.text_dim),
        "time": per_token_time + product(tokens, hidden, 6 * hidden),
        "rope": Cost(table_bytes=2 * needed * tokens * (dit.head_dim // 2) * 16),
        "dropped_blocks": sum(block.values(), Cost()).times(dropped)
        + sum((sizes.lora_block(layer) for layer in range(needed, dit.num_layers)), Cost())
        + Cost(table_bytes=2 * dropped * tokens * (dit.head_dim // 2) * 16),
        "video_head": product(tokens, hidden, dit.out_dim * patch_h * patch_w),
    }


def _expert_ledger(sizes: _Sizes) -> Ledger:
    config, expert, hidden = sizes.config, sizes.config.action_expert, sizes.config.video_dit.hidden_dim
    sources = expert.sources_per_layer(len(config.video_dit.adapters.layers))
    trunk, horizon = expert.trunk_dim, config.horizon
    pooled = expert.merge_dim or hidden
    compress = sum(
        (
            product(1, pooled * len(layer), expert.per_layer_dim)
            + product(1, expert.per_layer_dim, expert.per_layer_dim)
            for layer in sources
        ),
        Cost(),
    )
    trunk_cost = product(1, len(sources) * expert.per_layer_dim, trunk) + product(1, trunk, trunk).times(
        2 * expert.num_trunk_blocks
    )
    return {
        "expert.poolers": _pooler(sizes).times(_num_poolers(config)),
        "expert.merge": _merge(config).times(_num_poolers(config)),
        "expert.compressors": compress,
        "expert.trunk": trunk_cost,
        "expert.step_positions": product(horizon, expert.step_pos_dim, trunk) + product(horizon, trunk, trunk),
        "expert.output": product(horizon, trunk, trunk) + product(horizon, trunk, config.action_dim),
    }


def _num_poolers(config: LightWAMConfig) -> int:
    if config.action_expert.pooling == "mean":
        return 0
    return sum(map(len, config.action_expert.sources_per_layer(len(config.video_dit.adapters.layers))))


def _pooler(sizes: _Sizes) -> Cost:
    """Keys and values of every token, the queries, the attention, the output of every query."""
    hidden, queries = sizes.config.video_dit.hidden_dim, sizes.config.action_expert.num_queries
    linears = product(sizes.tokens, hidden, hidden).times(2) + product(queries, hidden, hidden).times(2)
    return linears + Cost(4 * queries * sizes.tokens * hidden)


def _merge(config: LightWAMConfig) -> Cost:
    expert, hidden = config.action_expert, config.video_dit.hidden_dim
    return Cost() if expert.merge_dim is None else product(1, expert.merge_slots * hidden, expert.merge_dim)


def _folded_pooler(sizes: _Sizes) -> Cost:
    """Scores, averages of the normed tokens, then value and output of one row a slot."""
    expert, hidden = sizes.config.action_expert, sizes.config.video_dit.hidden_dim
    slots = 1 if expert.merge_dim is None else expert.merge_slots
    rows = expert.num_heads * (expert.num_queries + slots)
    scores = Cost(2 * sizes.tokens * hidden * rows, 0, 4 * expert.num_heads * expert.num_queries * hidden)
    return scores + product(slots, hidden, hidden).times(2)


def _drop(*names: str) -> Callable[[Ledger, _Sizes], Ledger]:
    return lambda ledger, _: {name: cost for name, cost in ledger.items() if name not in names}


def _two_dimensional(ledger: Ledger, sizes: _Sizes) -> Ledger:
    folded = {name: _third(ledger[name]) for name in ("vae.causal", "vae.head_mean", "vae.head_log_variance")}
    return {**_drop("vae.temporal")(ledger, sizes), **folded}


def _third(cost: Cost) -> Cost:
    return Cost(cost.flops // 3, cost.weights // 3)


def _no_masks(ledger: Ledger, _: _Sizes) -> Ledger:
    return {**ledger, "blocks.masks": Cost()}


def _text_once(ledger: Ledger, sizes: _Sizes) -> Ledger:
    """Text rows leave the step; the proprio row's encoder and first embedding become one [D, P] linear."""
    dit = sizes.config.video_dit
    proprio = product(1, sizes.config.state_dim, dit.hidden_dim) + product(1, dit.hidden_dim, dit.hidden_dim)
    left = _drop("blocks.cross_kv_text", "text_embedding.text", "proprio_encoder")(ledger, sizes)
    return {**left, "text_embedding.proprio": proprio}


def _one_zero_row(ledger: Ledger, sizes: _Sizes) -> Ledger:
    flops = 4 * sizes.tokens * sizes.keys * sizes.config.video_dit.attention_dim
    return {**ledger, "blocks.cross_attention": Cost(flops * sizes.needed)}


def _fold_output(ledger: Ledger, sizes: _Sizes) -> Ledger:
    """The output projection leaves the tokens; every key carries heads * D numbers, the proprio key's made per step."""
    dit = sizes.config.video_dit
    hidden, inner = dit.hidden_dim, dit.attention_dim
    outputs = dit.num_heads * hidden
    block = {
        "blocks.cross_q_o": product(sizes.tokens, hidden, inner),
        "blocks.cross_output_proprio": product(1, inner, hidden),
        "blocks.cross_attention": Cost(2 * sizes.tokens * sizes.keys * (inner + outputs), 0, 2 * sizes.keys * outputs),
    }
    return {**ledger, **{name: cost.times(sizes.needed) for name, cost in block.items()}}


def _fold_poolers(ledger: Ledger, sizes: _Sizes) -> Ledger:
    return {**ledger, "expert.poolers": _folded_pooler(sizes).times(_num_poolers(sizes.config))}


def _float_tables(ledger: Ledger, _: _Sizes) -> Ledger:
    """complex128 angles become float32 cos and sin."""
    return {**ledger, "rope": Cost(table_bytes=ledger["rope"].table_bytes // 2)}


_STEPS: tuple[tuple[int, str, Callable[[Ledger, _Sizes], Ledger]], ...] = (
    (1, "drop the blocks after the last adapter, and the video head", _drop("dropped_blocks", "video_head")),
    (2, "VAE: causal 3-D convolutions of one frame become 2-D", _two_dimensional),
    (3, "merge LoRA into its linears", _drop("lora")),
    (4, "time branch, modulation, gates and norm affines become constants", _drop("time", "blocks.time_vectors")),
    (5, "no attention masks", _no_masks),
    (6, "text rows once an instruction; per step only the proprio row", _text_once),
    (7, "one zero row with a logit bias for all padded text rows", _one_zero_row),
    (8, "poolers: folded scores, averages before value and output", _fold_poolers),
    (9, "step positions become a constant", _drop("expert.step_positions")),
    (10, "RoPE tables once, float32", _float_tables),
    (
        11,
        "mean half of the VAE head, statistics and last convolution folded",
        _drop("vae.head_log_variance", "vae.last"),
    ),
    (12, "VAE decoder never loaded", _drop("vae.decoder")),
)


def savings(config: LightWAMConfig, text_rows: int | None = None, fold_output: bool = True) -> list[Saving]:
    """The thirteen savings in order, each applied to what the ones before it left.

    Args:
        config: a policy that starts at images. Its adapters are assumed to be read (any source but 'backbone' alone).
        text_rows: rows of the instruction; None: as many as the context has, so that saving 7 is worth nothing.
        fold_output: whether the engine has saving 13; without it the line stays, worth nothing.
    """
    sizes = _Sizes(config, config.text.length if text_rows is None else text_rows)
    ledger = published_ledger(config, sizes.text_rows)
    table = []
    for number, what, apply in _STEPS:
        before = total(ledger)
        ledger = apply(ledger, sizes)
        table.append(Saving(number, what, before, total(ledger)))
    before, keys = total(ledger), f"{sizes.keys} keys"
    if fold_output:
        what = f"cross-attention: value and output of each of {keys} as one vector"
        return [*table, Saving(13, what, before, total(_fold_output(ledger, sizes)))]
    return [*table, Saving(13, f"value and output of each key as one vector: not used ({keys})", before, before)]
