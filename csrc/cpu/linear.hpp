// SPDX-License-Identifier: Apache-2.0
//
// Matmuls with packed weights: `linear` and `grouped_linear`.
//
// Every operation of this library has the same two functions: `scratch_bytes(kernels, threads, args)`, which reads only
// the sizes and dtypes of `args`, and `run(execution, args)`, which allocates nothing, throws nothing, and gives the
// same bits for any number of threads. Sizes and dtypes are the caller's responsibility. Data pointers need the
// alignment of their element only; packed weights and scratch need 64 bytes.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

// A constant weight [groups, rows, taps, depth], row-major, before packing. linear: rows N, depth K. conv2d: rows Cout,
// taps kh*kw, depth Cin. grouped_linear: groups G. learned_query_pool: rows heads*Q, depth D.
struct WeightSource {
    const void* data = nullptr;
    DType dtype = DType::f32;    // as stored
    DType compute = DType::f32;  // what the matmul computes in, = dtype of x; (stored f32, compute bf16) is not allowed
    std::size_t groups = 1;
    std::size_t rows = 0;
    std::size_t taps = 1;
    std::size_t depth = 0;
    ConvForm form = ConvForm::direct;  // winograd: 3x3 taps, one group; packed are the planes of transformed taps
};

// Size of the packed form; `data` is not read. A multiple of 64.
std::size_t packed_bytes(const KernelTable& kernels, const WeightSource& source) noexcept;

// A weight is packed piece by piece, each from some of its source rows [groups*rows, taps*depth], so that it is never
// held twice. The pieces cover the rows in order, without a gap.
struct WeightPiece {
    std::size_t first_row = 0;
    std::size_t rows = 0;
};
std::size_t piece_count(const KernelTable& kernels, const WeightSource& source) noexcept;
WeightPiece weight_piece(const KernelTable& kernels, const WeightSource& source, std::size_t index) noexcept;

// Packs one piece, whose source rows stand at `rows`, into its place in `destination` (64-byte aligned, packed_bytes
// long). Valid for these kernels only. Pieces can be packed in any order and at once; `source.data` is not read.
void pack_piece(const KernelTable& kernels, const WeightSource& source, std::size_t index, const void* rows,
                std::byte* destination) noexcept;

// Packs all pieces from `source.data`.
void pack(const KernelTable& kernels, ThreadPool& pool, const WeightSource& source, std::byte* destination) noexcept;

// What turns the sums of products of 8-bit integers into numbers: the number behind x[r, k] is
// x_scale[r] * (x[r, k] - x_zero[r]), the one behind weight[n, k] is weight_scale[n] * weight[n, k]. Products of bf16
// may have scales too (8-bit floats, rows.hpp); their x_zero is null.
struct Quantisation {
    const float* x_scale = nullptr;        // [rows]; of groups [rows, groups]
    const std::int32_t* x_zero = nullptr;  // likewise, each in [-128, 127]
    const float* weight_scale = nullptr;   // [columns]; of groups [groups, columns]
};

// y [rows, groups*columns] = act(x . weight^T + bias) + residual: group g maps x [rows, groups, depth][:, g] to columns
// g*columns ... of y. Sums of i8 products are exact.
struct LinearArgs {
    std::size_t rows = 0;
    std::size_t depth = 0;
    std::size_t columns = 0;
    Input x;                            // dtype: the packed weight's compute dtype
    const std::byte* weight = nullptr;  // packed with groups, compute = x.dtype
    const float* bias = nullptr;        // [groups*columns] or null
    Activation activation = Activation::none;
    Input residual{};  // [rows, groups*columns], data null when absent; may be y itself
    Output y;
    Quantisation quantisation{};  // with x of i8 only; depth at most 66,311
    std::size_t groups = 1;
};

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const LinearArgs& args) noexcept;
void run(const Execution& execution, const LinearArgs& args) noexcept;

}  // namespace lightwam::cpu
