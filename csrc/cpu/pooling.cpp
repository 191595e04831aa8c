// SPDX-License-Identifier: Apache-2.0
//
// Learned-query pooling: normalise the tokens, score them against all heads' queries in one matmul, softmax over the
// tokens, average over the queries, and sum the normalised tokens with the resulting weights.
#include "attention.hpp"
#include "matmul.hpp"
#include "rows.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

struct Pieces {
    Pieces(std::byte* base, const KernelTable& kernels, int threads, const LearnedQueryPoolArgs& a) {
        const std::size_t queries = a.heads * a.queries;
        Scratch scratch(base);
        normalised = scratch.take<std::byte>(a.tokens * a.width * size_of(a.scores_compute));
        logits = scratch.take<float>(a.tokens * queries);
        weights = scratch.take<float>(a.tokens * a.slots * a.heads);
        maximum = scratch.take<float>(queries);
        inverse_sum = scratch.take<float>(queries);
        matmul = base == nullptr ? nullptr : base + scratch.used();
        LinearArgs linear;
        linear.rows = a.tokens;
        linear.depth = a.width;
        linear.columns = queries;
        linear.x = {normalised, a.scores_compute};
        linear.weight = a.scores;
        linear.y = {logits, DType::f32};
        scores = linear;
        bytes = scratch.used() + scratch_bytes(kernels, threads, scores);
    }
    std::byte* normalised;
    float* logits;   // [tokens, heads*Q]
    float* weights;  // [tokens, slots, heads]
    float* maximum;
    float* inverse_sum;
    std::byte* matmul;
    LinearArgs scores;
    std::size_t bytes;
};

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const LearnedQueryPoolArgs& args) noexcept {
    return Pieces(nullptr, kernels, threads, args).bytes;
}

void run(const Execution& execution, const LearnedQueryPoolArgs& a) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const Pieces pieces(execution.scratch, kernels, execution.pool->threads(), a);
    LayerNormArgs norm;
    norm.rows = a.tokens;
    norm.columns = a.width;
    norm.eps = a.eps;
    norm.x = a.x;
    norm.y = {pieces.normalised, a.scores_compute};
    run(execution, norm);
    run(Execution{execution.kernels, execution.pool, pieces.matmul}, pieces.scores);
    execution.pool->parallel_for(a.heads, [&](std::size_t head, int) {
        PoolSoftmax softmax{};
        softmax.logits = pieces.logits + head * a.queries;
        softmax.stride = a.heads * a.queries;
        softmax.tokens = a.tokens;
        softmax.queries = a.queries;
        softmax.slots = a.slots;
        softmax.merge = a.merge;
        softmax.maximum = pieces.maximum + head * a.queries;
        softmax.inverse_sum = pieces.inverse_sum + head * a.queries;
        softmax.weights = pieces.weights + head;
        softmax.weight_stride = a.slots * a.heads;
        softmax.slot_stride = a.heads;
        kernels.pool_softmax(softmax);
    });
    const WeightedSum sum{pieces.normalised, a.scores_compute,  a.tokens, a.width,
                          pieces.weights,    a.slots * a.heads, a.y};
    const std::size_t chunk = 64;
    execution.pool->parallel_for(ceil_div(a.width, chunk), [&](std::size_t item, int) {
        kernels.weighted_sum(sum, item * chunk, std::min((item + 1) * chunk, a.width));
    });
}

}  // namespace lightwam::cpu
