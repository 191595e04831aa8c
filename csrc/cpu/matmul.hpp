// SPDX-License-Identifier: Apache-2.0
//
// The blocked matmul below `linear`, `conv2d` and the pooling scores: a block of rows times a range of panels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "isa/kernel_table.hpp"

namespace lightwam::cpu {

// Of every level.
constexpr std::size_t kMaxPanelColumns = 64;

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) noexcept { return (a + b - 1) / b; }
constexpr std::size_t round_up(std::size_t a, std::size_t b) noexcept { return ceil_div(a, b) * b; }
constexpr std::size_t aligned(std::size_t bytes) noexcept { return round_up(bytes, 64); }

// Layout of a packed right factor [columns, taps, depth]: panel after panel, all of the full width but the last.
struct Panels {
    Panels(const KernelTable& kernels, DType dtype, std::size_t all_columns, std::size_t all_taps,
           std::size_t tap_depth);

    std::size_t vectors(std::size_t panel) const noexcept;  // vectors of this panel
    std::size_t bytes() const noexcept;                     // of the whole factor, a multiple of 64
    // i8: where a panel keeps the sum of each of its columns, i32 [vectors*lanes].
    std::size_t sums_offset(std::size_t panel) const noexcept;

    DType compute;
    std::size_t lanes;
    std::size_t columns;
    std::size_t taps;
    std::size_t depth;
    std::size_t padded_depth;  // a multiple of the depths in 32 bits: bf16 2, i8 4
    std::size_t width;         // columns of a full panel
    std::size_t count;
    std::size_t panel_bytes;  // of a full panel

  private:
    std::size_t column_bytes() const noexcept;
};

// Pack a right factor that is made at run time, in its compute dtype already, for one tap. as_columns: rows[n] [depth]
// is column n. as_depths: rows[k] [columns] is depth k, for k in [first, last), first even.
void pack_as_columns(const KernelTable& kernels, const Panels& panels, const void* const* rows,
                     std::byte* packed) noexcept;
void pack_as_depths(const KernelTable& kernels, const Panels& panels, const void* const* rows, std::size_t first,
                    std::size_t last, std::byte* packed) noexcept;

// How a matmul [rows, columns] is cut into work items. Every item computes whole sums, so the cut never shows. Groups
// of panels differ by one panel at most.
struct Cut {
    Cut(const KernelTable& kernels, const Panels& packed, std::size_t rows, int all_threads);

    std::size_t items() const noexcept { return row_blocks * panel_groups; }
    std::size_t first_panel(std::size_t group) const noexcept { return group * panels / panel_groups; }
    // What a thread that has done this group probably does next when groups are dealt out one by one.
    std::size_t next_panel(std::size_t group) const noexcept {
        return first_panel(std::min(group + (row_blocks == 1 ? threads : 1), panel_groups));
    }

    std::size_t threads;
    std::size_t panels;
    std::size_t rows_per_block;
    std::size_t row_blocks;
    std::size_t panel_groups;
};

struct Block {
    const void* const* rows;  // [taps, row_stride] pointers to `depth` elements each
    std::size_t row_stride;
    std::size_t row_count;
    const std::byte* weight;
    std::size_t first_panel;
    std::size_t last_panel;  // one past
    std::size_t next_panel;  // that this thread probably reads after the block
    float* acc;              // acc_floats(...) of work space; i8 keeps i32 sums in it
    // y[row, column] and residual[row, column] of the block's first row, at row*stride + column.
    const float* bias;
    Activation activation;
    Input residual;
    Output y;
    std::size_t stride;
    Quantisation quantisation;  // of the block's first row and of column 0; x of i8 always has one
};

std::size_t acc_floats(const KernelTable& kernels, const Panels& panels, std::size_t rows_per_block) noexcept;

void multiply(const KernelTable& kernels, const Panels& panels, const Block& block) noexcept;

inline const std::byte* element(const Input& x, std::size_t index) noexcept {
    return x.data == nullptr ? nullptr : static_cast<const std::byte*>(x.data) + index * size_of(x.dtype);
}
inline std::byte* element(const Output& y, std::size_t index) noexcept {
    return static_cast<std::byte*>(y.data) + index * size_of(y.dtype);
}
inline Input at(const Input& x, std::size_t index) noexcept { return {element(x, index), x.dtype}; }
inline Output at(const Output& y, std::size_t index) noexcept { return {element(y, index), y.dtype}; }

// Hands out pieces of a scratch block, each 64-byte aligned. With a null base it only counts.
class Scratch {
  public:
    explicit Scratch(std::byte* base) : base_(base) {}
    template <class T>
    T* take(std::size_t count) noexcept {
        std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
        used_ += aligned(count * sizeof(T));
        return reinterpret_cast<T*>(piece);
    }
    std::size_t used() const noexcept { return used_; }

  private:
    std::byte* base_;
    std::size_t used_ = 0;
};

}  // namespace lightwam::cpu
