// SPDX-License-Identifier: Apache-2.0
//
// What one instruction-set level provides. The operations (../*.cpp, baseline code) partition the work and call these.
// The files of a level must not instantiate anything that other files share (no standard templates): the linker keeps
// one copy, and it might be the one this CPU cannot run.
#pragma once

#include "../attention.hpp"
#include "../conv2d.hpp"
#include "../kernels.hpp"
#include "../linear.hpp"
#include "../rows.hpp"
#include "../types.hpp"

namespace lightwam::cpu {

constexpr std::size_t kMaxTileRows = 8;
constexpr std::size_t kMaxTileVectors = 3;

// One tile of a matmul: acc [rows, vectors*lanes] (+)= A . panel, where row r of A is the concatenation over taps of
// `depth` elements at rows[tap*row_stride + r] + offset_bytes.
struct Tile {
    const void* const* rows;
    std::size_t row_stride;  // pointers from one tap to the next
    std::size_t offset_bytes;
    std::size_t taps;
    std::size_t depth;
    const void* panel;  // [taps, padded depth, vectors*lanes]; bf16: pairs, i8: fours of depths side by side
    float* acc;         // i8: i32 sums of (row element + 128) * panel element, in the same bytes
    std::size_t acc_stride;
    bool accumulate;
    // What is read after this, or null: every step of the sum prefetches one line of it and moves on by `ahead_step`
    // bytes.
    const void* ahead;
    std::size_t ahead_step;
};
using TileFunction = void (*)(const Tile&) noexcept;

// y [rows, columns] = act(acc * column_scale * row_scale + bias) + residual for one tile. With column_sums, acc holds
// the integers of an i8 tile, and acc becomes (acc - (128 + row_zero) * column_sums) * column_scale * row_scale.
struct Epilogue {
    const float* acc;
    std::size_t acc_stride;
    std::size_t rows;
    std::size_t columns;
    const float* row_scale;           // [rows] or null
    const std::int32_t* row_zero;     // [rows]
    const std::int32_t* column_sums;  // [columns, rounded up to whole vectors] or null
    const float* column_scale;        // [columns]; null for 1 where there are no column_sums
    const float* bias;                // [columns] or null
    Activation activation;
    Input residual;  // element [0, 0] of the tile
    Output y;
    std::size_t stride;  // of y and residual, in elements
};

// `rows` [count] point to the source rows; element k of a row is at [k].
// pack_rows: panel column n is rows[n] (count <= vectors*lanes columns). pack_columns: panel depth k is rows[k].
struct Pack {
    const void* const* rows;
    std::size_t count;
    DType source;
    DType compute;
    std::size_t depth;         // pack_rows: elements of a row. pack_columns: = count
    std::size_t first_column;  // pack_columns only: columns [first_column, + columns) of the rows
    std::size_t columns;       // at most vectors*lanes
    std::size_t vectors;
    void* panel;
};

// Winograd form of a 3x3 convolution: windows of (rows + 2) x (columns + 2) pixels, which overlap by two, give tiles of
// rows x columns outputs. Windows, taps and products are transformed to planes, one for each element of a window.
struct WinogradTile {
    std::size_t rows;
    std::size_t columns;
    constexpr std::size_t window_rows() const noexcept { return rows + 2; }
    constexpr std::size_t window_columns() const noexcept { return columns + 2; }
    constexpr std::size_t planes() const noexcept { return window_rows() * window_columns(); }
};

// Products of one output: direct 9, 2x2 tiles 4, 2x4 3, 4x4 2.25. Larger tiles lose more digits to the transforms: f32
// has them, bf16 has not (docs/reports/performance.md).
constexpr WinogradTile winograd_tile(DType compute) noexcept {
    return compute == DType::bf16 ? WinogradTile{2, 4} : WinogradTile{4, 4};
}

// planes[p][tile, channel] = (B^T window B)[p].
struct WinogradInput {
    const void* const* rows;  // [tiles, window rows] pointers to window columns x channels elements each
    DType compute;            // of pixels and planes
    std::size_t tiles;
    std::size_t channels;
    void* planes;
    std::size_t plane_stride;  // in elements
};

// y = act(A^T planes[tile] A + bias) + residual for tiles in reading order, cut off at the map's edge.
struct WinogradOutput {
    DType compute;        // what the products were computed in
    const float* planes;  // [tiles, tile_stride] each
    std::size_t plane_stride;
    std::size_t tile_stride;
    std::size_t first_tile;
    std::size_t tiles;
    std::size_t height;  // of the map of outputs
    std::size_t width;
    std::size_t columns;  // channels to write
    const float* bias;    // [columns] or null
    Activation activation;
    Input residual;  // first channel to write of the map's first pixel
    Output y;
    std::size_t pixel_stride;  // of y and residual, in elements
};

struct Softmax {
    float* scores;  // [count], overwritten
    std::size_t count;
    float scale;           // positive
    const float* bias;     // [count] or null
    Output probabilities;  // [count] numerators: exp(logit - max). May be `scores` when f32
    bool normalized;       // divided by their sum
};

struct PoolSoftmax {
    const float* logits;  // [tokens, stride]; this head's queries are columns 0 ... queries-1
    std::size_t stride;
    std::size_t tokens;
    std::size_t queries;
    std::size_t slots;
    const float* merge;  // [slots, queries]
    float* maximum;      // [queries] work space
    float* inverse_sum;  // [queries] work space
    float* weights;      // [tokens, weight_stride]; slot m at column m*slot_stride
    std::size_t weight_stride;
    std::size_t slot_stride;
};

struct WeightedSum {
    const void* rows_data;  // [tokens, width]
    DType dtype;
    std::size_t tokens;
    std::size_t width;
    const float* weights;  // [tokens, outputs]
    std::size_t outputs;
    Output y;  // [outputs, width]
};

struct ResizeRows {
    const std::uint8_t* pixels;  // of input row 0 before rotation
    std::ptrdiff_t row_stride;
    std::ptrdiff_t column_stride;
    std::ptrdiff_t channel_stride;
    std::size_t in_width;
    std::size_t first;  // first input row
    std::size_t count;
    const float* weights;  // [count]
    float* sums;           // [in_width, 3]
};

struct ResizeColumns {
    const float* sums;    // column 0 of [in_width, 3], or its last one when mirrored; one more value is readable
    std::ptrdiff_t step;  // floats from one column to the next: 3, or -3 when mirrored
    std::size_t out;
    std::size_t taps;
    const std::uint32_t* first;
    const std::uint32_t* count;
    const float* weights;  // [out, taps]
    Output y;              // [out, 3]
};

struct KernelTable {
    Level level;
    bool native_bf16;  // else bf16 products are widened to f32: correct, about twice as slow
    bool native_i8;  // VNNI; else 8-bit products are widened to 16 or 32 bits: the same sums, slower than f32 products
    std::size_t lanes;
    std::size_t tile_rows;
    std::size_t tile_vectors;
    TileFunction tiles[3][kMaxTileRows][kMaxTileVectors];  // [dtype][rows - 1][vectors - 1]
    void (*epilogue)(const Epilogue&) noexcept;
    void (*pack_rows)(const Pack&) noexcept;
    void (*pack_columns)(const Pack&) noexcept;
    // Rows [9, depth] of taps; writes the panel of plane p at panel + p*plane_bytes.
    void (*pack_winograd)(const Pack&, std::size_t plane_bytes) noexcept;
    void (*winograd_input)(const WinogradInput&) noexcept;
    void (*winograd_output)(const WinogradOutput&) noexcept;
    float (*softmax)(const Softmax&) noexcept;  // returns the sum of the numerators
    void (*pool_softmax)(const PoolSoftmax&) noexcept;
    void (*weighted_sum)(const WeightedSum&, std::size_t begin, std::size_t end) noexcept;  // columns
    // Of rows, columns, elements or positions [begin, end).
#define LIGHTWAM_ROW_KERNEL(name, arguments, count, width) \
    void (*name)(const arguments&, std::size_t begin, std::size_t end) noexcept;
#include "engine/ops.def"
    void (*resize_rows)(const ResizeRows&) noexcept;
    void (*resize_columns)(const ResizeColumns&) noexcept;
};

extern const KernelTable kPortableTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx2VnniTable;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512Bf16Table;
#endif

}  // namespace lightwam::cpu
