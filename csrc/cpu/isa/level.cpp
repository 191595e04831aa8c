// SPDX-License-Identifier: Apache-2.0
//
// Builds the kernel table of one level. Compiled once for each (csrc/cpu/CMakeLists.txt), with
//   LIGHTWAM_LEVEL          the level's name in `Level`
//   LIGHTWAM_TABLE          the table's name
//   LIGHTWAM_VECTOR_BYTES   16, 32 or 64
//   LIGHTWAM_NATIVE_BF16    1 with vdpbf16ps
//   LIGHTWAM_NATIVE_I8      1 with vpdpbusd
// and the flags of that level. Everything has internal linkage, see kernel_table.hpp.

#include "kernel_table.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lightwam::cpu {
namespace {

// The order matters.
// clang-format off
#include "vec.inl"
#include "math.inl"
#include "gemm_i8.inl"
#include "gemm.inl"
#include "pack.inl"
#include "winograd.inl"
#include "norms.inl"
#include "quantize.inl"
#include "elementwise.inl"
#include "attention.inl"
#include "resize.inl"
// clang-format on

constexpr KernelTable make_table() {
    KernelTable table{};
    table.level = Level::LIGHTWAM_LEVEL;
    table.native_bf16 = LIGHTWAM_NATIVE_BF16 != 0;
    table.native_i8 = LIGHTWAM_NATIVE_I8 != 0;
    table.lanes = kLanes;
    table.tile_rows = kTileRows;
    table.tile_vectors = kTileVectors;
    add_tiles<float, kTileRows>(table, DType::f32);
    add_tiles<bf16_bits, kTileRows>(table, DType::bf16);
    add_tiles<std::int8_t, kTileRows>(table, DType::i8);
    table.epilogue = epilogue;
    table.pack_rows = pack_rows;
    table.pack_columns = pack_columns;
    table.pack_winograd = pack_winograd;
    table.winograd_input = winograd_input;
    table.winograd_output = winograd_output;
    table.softmax = softmax;
    table.pool_softmax = pool_softmax;
    table.weighted_sum = weighted_sum;
#define LIGHTWAM_ROW_KERNEL(name, arguments, count, width) table.name = name;
#include "engine/ops.def"
    table.resize_rows = resize_rows;
    table.resize_columns = resize_columns;
    return table;
}

}  // namespace

constinit const KernelTable LIGHTWAM_TABLE = make_table();

}  // namespace lightwam::cpu
