// SPDX-License-Identifier: Apache-2.0
//
// Attention as two matmuls around a softmax, head by head: keys and values are packed once per head, then every tile
// of query rows computes its logits against all keys, their softmax, and the weighted values. A tile's logits stay in
// the first-level cache, so no online softmax is needed.
#include "attention.hpp"

#include <cmath>

#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

constexpr std::size_t kTilesPerItem = 4;

struct Keys {
    std::size_t text = 0;  // rows taken from the first segment
    std::size_t proprio = 0;
    std::size_t total() const noexcept { return text + proprio; }
};

// Both kinds of attention. Self-attention has one segment of keys and no bias.
struct Attention {
    std::size_t tokens;
    std::size_t heads;
    std::size_t head_width;
    float scale;
    Input q;
    Input keys[2];
    Input values[2];
    const float* bias;
    Output y;
    std::size_t width() const noexcept { return heads * head_width; }
};

struct ThreadScratch {
    ThreadScratch(Scratch& scratch, const KernelTable& kernels, const Attention& a, const Panels& keys,
                  const Panels& values)
        : pointers(scratch.take<const void*>(std::max(keys.columns, kernels.tile_rows))),
          probability_rows(scratch.take<const void*>(kernels.tile_rows)),
          inverse_sums(scratch.take<float>(kernels.tile_rows)),
          stride(keys.count * keys.width),
          logits(scratch.take<float>(kernels.tile_rows * stride)),
          probabilities(scratch.take<bf16_bits>(a.q.dtype == DType::bf16 ? kernels.tile_rows * stride : 0)),
          acc(scratch.take<float>(kernels.tile_rows * values.width)) {}

    const void** pointers;
    const void** probability_rows;
    float* inverse_sums;
    std::size_t stride;  // of logits and probabilities
    float* logits;
    bf16_bits* probabilities;  // bf16 only; in f32 they replace the logits
    float* acc;
};

struct Plan {
    Plan(const KernelTable& kernels, const Attention& a, std::size_t key_count)
        : keys(kernels, a.q.dtype, key_count, 1, a.head_width), values(kernels, a.q.dtype, a.head_width, 1, key_count) {
        head_bytes = keys.bytes() + values.bytes();
        Scratch scratch(nullptr);
        const ThreadScratch one(scratch, kernels, a, keys, values);
        thread_bytes = scratch.used();
    }
    std::size_t bytes(const Attention& a, int threads) const noexcept {
        return head_bytes * a.heads + thread_bytes * static_cast<std::size_t>(threads);
    }
    Panels keys;    // columns: keys, depth: head width
    Panels values;  // columns: head width, depth: keys
    std::size_t head_bytes;
    std::size_t thread_bytes;
};

void pack_head(const KernelTable& kernels, const Attention& a, const Keys& keys, const Plan& plan, std::size_t head,
               const void** pointers, std::byte* packed) noexcept {
    const auto point = [&](const Input(&segments)[2]) {
        for (std::size_t i = 0; i < keys.total(); ++i) {
            const bool text = i < keys.text;
            const std::size_t row = text ? i : i - keys.text;
            pointers[i] = element(segments[text ? 0 : 1], row * a.width() + head * a.head_width);
        }
    };
    point(a.keys);
    pack_as_columns(kernels, plan.keys, pointers, packed);
    point(a.values);
    pack_as_depths(kernels, plan.values, pointers, 0, keys.total(), packed + plan.keys.bytes());
}

// Logits of `rows` query rows against all keys, then their softmax numerators and 1 / sums.
void tile_probabilities(const KernelTable& kernels, const Attention& a, const Plan& plan, const ThreadScratch& mine,
                        const std::byte* packed_keys, std::size_t rows) noexcept {
    Tile tile{};
    tile.rows = mine.pointers;
    tile.taps = 1;
    tile.depth = a.head_width;
    tile.acc_stride = mine.stride;
    const auto& tiles = kernels.tiles[static_cast<std::size_t>(a.q.dtype)][rows - 1];
    for (std::size_t panel = 0; panel < plan.keys.count; ++panel) {
        tile.panel = packed_keys + panel * plan.keys.panel_bytes;
        tile.acc = mine.logits + panel * plan.keys.width;
        tiles[plan.keys.vectors(panel) - 1](tile);
    }
    for (std::size_t row = 0; row < rows; ++row) {
        float* logits = mine.logits + row * mine.stride;
        void* probabilities = logits;
        if (a.q.dtype == DType::bf16) probabilities = mine.probabilities + row * mine.stride;
        const Softmax softmax{logits, plan.keys.columns, a.scale, a.bias, {probabilities, a.q.dtype}, false};
        mine.inverse_sums[row] = 1.0F / kernels.softmax(softmax);
        mine.probability_rows[row] = probabilities;
    }
}

void tile_values(const KernelTable& kernels, const Attention& a, const Plan& plan, const ThreadScratch& mine,
                 const std::byte* packed_values, std::size_t rows, std::size_t first) noexcept {
    Tile tile{};
    tile.rows = mine.probability_rows;
    tile.taps = 1;
    tile.depth = plan.values.depth;
    tile.acc = mine.acc;
    tile.acc_stride = plan.values.width;
    Epilogue epilogue{};
    epilogue.acc = mine.acc;
    epilogue.acc_stride = plan.values.width;
    epilogue.rows = rows;
    epilogue.row_scale = mine.inverse_sums;
    epilogue.stride = a.width();
    for (std::size_t panel = 0; panel < plan.values.count; ++panel) {
        tile.panel = packed_values + panel * plan.values.panel_bytes;
        kernels.tiles[static_cast<std::size_t>(a.q.dtype)][rows - 1][plan.values.vectors(panel) - 1](tile);
        epilogue.columns = std::min(plan.values.width, plan.values.columns - panel * plan.values.width);
        epilogue.y = at(a.y, first + panel * plan.values.width);
        kernels.epilogue(epilogue);
    }
}

// Tiles of query rows [begin, end) of a head.
void attend_rows(const KernelTable& kernels, const Attention& a, const Plan& plan, const ThreadScratch& mine,
                 const std::byte* packed, std::size_t head, std::size_t begin, std::size_t end) noexcept {
    for (std::size_t row = begin; row < end; row += kernels.tile_rows) {
        const std::size_t rows = std::min(kernels.tile_rows, end - row);
        const std::size_t first = row * a.width() + head * a.head_width;
        for (std::size_t i = 0; i < rows; ++i) mine.pointers[i] = element(a.q, first + i * a.width());
        tile_probabilities(kernels, a, plan, mine, packed, rows);
        tile_values(kernels, a, plan, mine, packed + plan.keys.bytes(), rows, first);
    }
}

void attend(const Execution& execution, const Attention& a, const Keys& keys, std::byte* base) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const Plan plan(kernels, a, keys.total());
    std::byte* packed = base;
    std::byte* thread_base = base + plan.head_bytes * a.heads;
    const auto scratch_of = [&](int thread) {
        Scratch scratch(thread_base + static_cast<std::size_t>(thread) * plan.thread_bytes);
        return ThreadScratch(scratch, kernels, a, plan.keys, plan.values);
    };
    if (a.heads % static_cast<std::size_t>(execution.pool->threads()) == 0) {
        // A thread packs its next head where its last one was: in its own second-level cache.
        execution.pool->parallel_for(a.heads, [&](std::size_t head, int thread) {
            const ThreadScratch mine = scratch_of(thread);
            std::byte* const own = packed + static_cast<std::size_t>(thread) * plan.head_bytes;
            pack_head(kernels, a, keys, plan, head, mine.pointers, own);
            attend_rows(kernels, a, plan, mine, own, head, 0, a.tokens);
        });
        return;
    }
    execution.pool->parallel_for(a.heads, [&](std::size_t head, int thread) {
        pack_head(kernels, a, keys, plan, head, scratch_of(thread).pointers, packed + head * plan.head_bytes);
    });
    const std::size_t item_rows = kTilesPerItem * kernels.tile_rows;
    const std::size_t blocks = ceil_div(a.tokens, item_rows);
    execution.pool->parallel_for(a.heads * blocks, [&](std::size_t item, int thread) {
        const std::size_t head = item / blocks;
        const std::size_t begin = item % blocks * item_rows;
        attend_rows(kernels, a, plan, scratch_of(thread), packed + head * plan.head_bytes, head, begin,
                    std::min(begin + item_rows, a.tokens));
    });
}

Attention attention_of(const SelfAttentionArgs& a) noexcept {
    return {a.tokens, a.heads, a.head_width, a.scale, a.q, {a.k, {}}, {a.v, {}}, nullptr, a.y};
}

Attention attention_of(const CrossAttentionArgs& a) noexcept {
    return {a.tokens, a.heads, a.head_width, a.scale, a.q, {a.key_text, a.key_proprio}, {a.value_text, a.value_proprio},
            nullptr,  a.y};
}

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const SelfAttentionArgs& args) noexcept {
    const Attention a = attention_of(args);
    return Plan(kernels, a, args.tokens).bytes(a, threads);
}

void run(const Execution& execution, const SelfAttentionArgs& args) noexcept {
    attend(execution, attention_of(args), Keys{args.tokens, 0}, execution.scratch);
}

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const CrossAttentionArgs& args) noexcept {
    const Attention a = attention_of(args);
    const std::size_t keys = args.text_rows + args.proprio_rows;
    return aligned(keys * sizeof(float)) + Plan(kernels, a, keys).bytes(a, threads);
}

void run(const Execution& execution, const CrossAttentionArgs& args) noexcept {
    Keys keys;
    keys.text = std::min(static_cast<std::size_t>(std::max(*args.key_count, 0)), args.text_rows);
    keys.proprio = args.proprio_rows;
    Scratch scratch(execution.scratch);
    float* bias = scratch.take<float>(args.text_rows + args.proprio_rows);
    for (std::size_t i = 0; i < keys.total(); ++i) bias[i] = i < keys.text ? args.key_bias[i] : 0.0F;
    Attention a = attention_of(args);
    a.bias = bias;
    attend(execution, a, keys, execution.scratch + scratch.used());
}

void run(const Execution&, const TextKeyBiasArgs& args) noexcept {
    const std::size_t n = std::min(static_cast<std::size_t>(std::max(*args.text_rows, 0)), args.rows);
    for (std::size_t i = 0; i < args.rows; ++i) args.key_bias[i] = 0.0F;
    if (n < args.rows) args.key_bias[n] = std::log(static_cast<float>(args.rows - n));
    *args.key_count = static_cast<std::int32_t>(std::min(n + 1, args.rows));
}

}  // namespace lightwam::cpu
