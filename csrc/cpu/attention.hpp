// SPDX-License-Identifier: Apache-2.0
//
// Self-attention, cross-attention over instruction and proprio keys (plain, and with the output projection folded into
// the keys), learned-query pooling. Conventions: linear.hpp.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

// y [tokens, heads*head_width] = softmax(scale * q k^T) v, head by head. q, k and v have one dtype.
struct SelfAttentionArgs {
    std::size_t tokens = 0;
    std::size_t heads = 0;
    std::size_t head_width = 0;
    float scale = 1.0F;
    Input q;
    Input k;
    Input v;
    Output y;
};

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const SelfAttentionArgs& args) noexcept;
void run(const Execution& execution, const SelfAttentionArgs& args) noexcept;

// What both kinds of cross-attention read: queries, and keys of the instruction and of proprio, which have q's dtype.
struct CrossAttentionKeys {
    std::size_t tokens = 0;
    std::size_t heads = 0;
    std::size_t head_width = 0;
    std::size_t text_rows = 0;     // L
    std::size_t proprio_rows = 0;  // E, 0 when absent
    float scale = 1.0F;
    Input q;
    Input key_text;
    const float* key_bias = nullptr;          // [L]
    const std::int32_t* key_count = nullptr;  // [1]
    Input key_proprio;
};

// y [tokens, D] with D = heads*head_width: softmax over the first *key_count rows of key_text (logit + key_bias) and
// all proprio_rows rows of key_proprio. Values have q's dtype. *key_count is clamped to [0, text_rows].
struct CrossAttentionArgs : CrossAttentionKeys {
    Input value_text;
    Input value_proprio;
    Output y;
};

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const CrossAttentionArgs& args) noexcept;
void run(const Execution& execution, const CrossAttentionArgs& args) noexcept;

// y [tokens, columns] = sum over heads h and keys k of p[h, s, k] output[k, h*columns ...] + bias + residual, with the
// probabilities p of CrossAttentionArgs: an output row holds a key's value behind the output projection, head by head.
// Outputs have q's dtype.
struct CrossAttentionFoldedArgs : CrossAttentionKeys {
    std::size_t columns = 0;      // N
    Input output_text;            // [L, heads*columns]
    Input output_proprio;         // [E, heads*columns]
    const float* bias = nullptr;  // [columns] or null
    Input residual;               // [tokens, columns], data null when absent; may be y itself
    Output y;
};

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const CrossAttentionFoldedArgs& args) noexcept;
void run(const Execution& execution, const CrossAttentionFoldedArgs& args) noexcept;

// key_bias [L] = 0, but log(L - n) at row n when n < L; *key_count = min(n + 1, L); n = *text_rows clamped to [0, L].
struct TextKeyBiasArgs {
    std::size_t rows = 0;  // L
    const std::int32_t* text_rows = nullptr;
    float* key_bias = nullptr;
    std::int32_t* key_count = nullptr;
};

void run(const Execution& execution, const TextKeyBiasArgs& args) noexcept;

// y [slots, heads, D]: n = LN(x) without affine; p[h,q,:] = softmax over tokens of n . scores[h*Q+q];
// y[m,h] = sum_s (sum_q merge[m,q] p[h,q,s]) n_s.
struct LearnedQueryPoolArgs {
    std::size_t tokens = 0;
    std::size_t width = 0;  // D
    std::size_t heads = 0;
    std::size_t queries = 0;  // Q per head
    std::size_t slots = 1;    // M
    float eps = 1e-6F;
    Input x;
    const std::byte* scores = nullptr;  // packed, rows heads*Q, depth D, compute = scores_compute
    DType scores_compute = DType::f32;  // f32, or bf16 when x and the stored scores are bf16
    const float* merge = nullptr;       // [M, Q]
    Output y;
};

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const LearnedQueryPoolArgs& args) noexcept;
void run(const Execution& execution, const LearnedQueryPoolArgs& args) noexcept;

}  // namespace lightwam::cpu
