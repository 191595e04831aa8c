// SPDX-License-Identifier: Apache-2.0
//
// Cross-attention whose keys carry their value behind the output projection, head by head. With few keys the matmuls
// of all heads are one: probabilities [tokens, heads*keys] times output rows [heads*keys, columns].
// The output rows are packed in each call: they are few, and an instruction's cache then holds them once.
#include <algorithm>

#include "attention.hpp"
#include "linear.hpp"
#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

using Args = CrossAttentionFoldedArgs;

constexpr std::size_t kPackedDepths = 16;  // output rows of a work item, read from end to end

// Sizes and scratch memory for `text` + proprio keys.
struct Plan {
    Plan(const KernelTable& kernels, int threads, const Args& a, std::size_t text, std::byte* base)
        : text_keys(text),
          all_keys(text + a.proprio_rows),
          keys(kernels, a.q.dtype, all_keys, 1, a.head_width),
          outputs(kernels, a.q.dtype, a.columns, 1, a.heads * all_keys),
          logits_stride(keys.count * keys.width) {
        Scratch scratch(base);
        bias = scratch.take<float>(all_keys);
        key_rows = scratch.take<const void*>(a.heads * all_keys);
        output_rows = scratch.take<const void*>(a.heads * all_keys);
        packed_keys = scratch.take<std::byte>(a.heads * keys.bytes());
        packed_outputs = scratch.take<std::byte>(outputs.bytes());
        probabilities = scratch.take<std::byte>(a.tokens * outputs.depth * size_of(a.q.dtype));
        logits_floats = aligned(kernels.tile_rows * logits_stride * sizeof(float)) / sizeof(float);
        logits = scratch.take<float>(logits_floats * static_cast<std::size_t>(threads));
        bytes = scratch.used();
    }

    std::size_t text_keys;
    std::size_t all_keys;
    Panels keys;     // of one head. Columns: keys, depth: head width
    Panels outputs;  // columns: N, depth: heads*keys, head by head
    std::size_t logits_stride;
    std::size_t logits_floats;  // of one thread: [tile_rows, logits_stride]
    std::size_t bytes;
    float* bias;               // [keys]
    const void** key_rows;     // [heads, keys]
    const void** output_rows;  // [heads, keys]
    std::byte* packed_keys;    // [heads]
    std::byte* packed_outputs;
    std::byte* probabilities;  // [tokens, heads, keys], q's dtype
    float* logits;             // [threads]
};

LinearArgs output_matmul(const Args& a, const Plan& plan) noexcept {
    LinearArgs matmul;
    matmul.rows = a.tokens;
    matmul.depth = plan.outputs.depth;
    matmul.columns = a.columns;
    matmul.x = {plan.probabilities, a.q.dtype};
    matmul.weight = plan.packed_outputs;
    matmul.bias = a.bias;
    matmul.residual = a.residual;
    matmul.y = a.y;
    return matmul;
}

void point_to_rows(const Args& a, const Plan& plan) noexcept {
    for (std::size_t key = 0; key < plan.all_keys; ++key) {
        const bool text = key < plan.text_keys;
        const std::size_t row = text ? key : key - plan.text_keys;
        plan.bias[key] = text ? a.key_bias[row] : 0.0F;
        for (std::size_t head = 0; head < a.heads; ++head) {
            const std::size_t part = row * a.heads + head;
            plan.key_rows[head * plan.all_keys + key] = element(text ? a.key_text : a.key_proprio, part * a.head_width);
            plan.output_rows[head * plan.all_keys + key] =
                element(text ? a.output_text : a.output_proprio, part * a.columns);
        }
    }
}

void pack_keys_and_outputs(const Execution& execution, const Args& a, const Plan& plan) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const std::size_t depth = plan.outputs.depth;
    execution.pool->parallel_for(a.heads + ceil_div(depth, kPackedDepths), [&](std::size_t item, int) {
        if (item < a.heads) {
            pack_as_columns(kernels, plan.keys, plan.key_rows + item * plan.all_keys,
                            plan.packed_keys + item * plan.keys.bytes());
        } else {
            const std::size_t first = (item - a.heads) * kPackedDepths;
            pack_as_depths(kernels, plan.outputs, plan.output_rows, first, std::min(first + kPackedDepths, depth),
                           plan.packed_outputs);
        }
    });
}

// Probabilities of `rows` tokens from `first` on, of every head.
void tile_probabilities(const KernelTable& kernels, const Args& a, const Plan& plan, std::size_t first,
                        std::size_t rows, float* logits) noexcept {
    const void* queries[kMaxTileRows];
    const auto& tiles = kernels.tiles[static_cast<std::size_t>(a.q.dtype)][rows - 1];
    Tile tile{};
    tile.rows = queries;
    tile.taps = 1;
    tile.depth = a.head_width;
    tile.acc_stride = plan.logits_stride;
    for (std::size_t head = 0; head < a.heads; ++head) {
        for (std::size_t i = 0; i < rows; ++i) {
            queries[i] = element(a.q, ((first + i) * a.heads + head) * a.head_width);
        }
        for (std::size_t panel = 0; panel < plan.keys.count; ++panel) {
            tile.panel = plan.packed_keys + head * plan.keys.bytes() + panel * plan.keys.panel_bytes;
            tile.acc = logits + panel * plan.keys.width;
            tiles[plan.keys.vectors(panel) - 1](tile);
        }
        for (std::size_t i = 0; i < rows; ++i) {
            const Output all{plan.probabilities, a.q.dtype};
            const Output mine = at(all, ((first + i) * a.heads + head) * plan.all_keys);
            kernels.softmax({logits + i * plan.logits_stride, plan.all_keys, a.scale, plan.bias, mine, true});
        }
    }
}

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const Args& args) noexcept {
    const Plan plan(kernels, threads, args, args.text_rows, nullptr);
    return plan.bytes + scratch_bytes(kernels, threads, output_matmul(args, plan));
}

void run(const Execution& execution, const Args& args) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const std::size_t text = std::min(static_cast<std::size_t>(std::max(*args.key_count, 0)), args.text_rows);
    const Plan plan(kernels, execution.pool->threads(), args, text, execution.scratch);
    point_to_rows(args, plan);
    pack_keys_and_outputs(execution, args, plan);
    execution.pool->parallel_for(ceil_div(args.tokens, kernels.tile_rows), [&](std::size_t item, int thread) {
        const std::size_t first = item * kernels.tile_rows;
        tile_probabilities(kernels, args, plan, first, std::min(kernels.tile_rows, args.tokens - first),
                           plan.logits + static_cast<std::size_t>(thread) * plan.logits_floats);
    });
    run({execution.kernels, execution.pool, execution.scratch + plan.bytes}, output_matmul(args, plan));
}

}  // namespace lightwam::cpu
