// SPDX-License-Identifier: Apache-2.0
#include "linear.hpp"

#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

struct ThreadScratch {
    ThreadScratch(Scratch& scratch, const KernelTable& kernels, const Panels& panels, const Cut& cut,
                  std::size_t groups)
        : rows(scratch.take<const void*>(cut.rows_per_block)),
          acc(scratch.take<float>(acc_floats(kernels, panels, cut.rows_per_block))) {
        if (groups == 1) return;
        x_scale = scratch.take<float>(cut.rows_per_block);
        x_zero = scratch.take<std::int32_t>(cut.rows_per_block);
    }
    const void** rows;
    float* acc;
    float* x_scale = nullptr;  // of one group, for the rows of a block
    std::int32_t* x_zero = nullptr;
};

// The scales of a block's rows in one group side by side, as the epilogue reads them.
Quantisation of_group(const LinearArgs& a, std::size_t group, std::size_t first_row, std::size_t rows,
                      const ThreadScratch& mine) noexcept {
    Quantisation found = a.quantisation;
    found.weight_scale += group * a.columns;
    found.x_scale += first_row * a.groups + group;
    if (found.x_zero != nullptr) found.x_zero += first_row * a.groups + group;
    if (a.groups == 1) return found;
    for (std::size_t i = 0; i < rows; ++i) {
        mine.x_scale[i] = found.x_scale[i * a.groups];
        if (found.x_zero != nullptr) mine.x_zero[i] = found.x_zero[i * a.groups];
    }
    found.x_scale = mine.x_scale;
    if (found.x_zero != nullptr) found.x_zero = mine.x_zero;
    return found;
}

void run_item(const KernelTable& kernels, const LinearArgs& a, const Panels& panels, const Cut& cut, std::size_t item,
              std::byte* scratch_base) noexcept {
    const std::size_t group = item / cut.items();
    const std::size_t panel_group = item % cut.items() / cut.row_blocks;
    const std::size_t first_row = item % cut.row_blocks * cut.rows_per_block;
    Scratch scratch(scratch_base);
    const ThreadScratch mine(scratch, kernels, panels, cut, a.groups);
    Block block{};
    block.row_count = std::min(cut.rows_per_block, a.rows - first_row);
    for (std::size_t i = 0; i < block.row_count; ++i) {
        mine.rows[i] = element(a.x, ((first_row + i) * a.groups + group) * a.depth);
    }
    block.rows = mine.rows;
    block.row_stride = cut.rows_per_block;
    block.weight = a.weight + group * panels.bytes();
    block.first_panel = cut.first_panel(panel_group);
    block.last_panel = cut.first_panel(panel_group + 1);
    block.next_panel = cut.next_panel(panel_group);
    block.acc = mine.acc;
    block.bias = a.bias == nullptr ? nullptr : a.bias + group * a.columns;
    block.activation = a.activation;
    block.stride = a.groups * a.columns;
    if (a.quantisation.weight_scale != nullptr)
        block.quantisation = of_group(a, group, first_row, block.row_count, mine);
    const std::size_t first = first_row * block.stride + group * a.columns;
    block.residual = at(a.residual, first);
    block.y = at(a.y, first);
    multiply(kernels, panels, block);
}

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const LinearArgs& a) noexcept {
    const Panels panels(kernels, a.x.dtype, a.columns, 1, a.depth);
    Scratch scratch(nullptr);
    const ThreadScratch one(scratch, kernels, panels, Cut(kernels, panels, a.rows, threads), a.groups);
    return scratch.used() * static_cast<std::size_t>(threads);
}

void run(const Execution& execution, const LinearArgs& a) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const int threads = execution.pool->threads();
    const Panels panels(kernels, a.x.dtype, a.columns, 1, a.depth);
    const Cut cut(kernels, panels, a.rows, threads);
    const std::size_t share = scratch_bytes(kernels, threads, a) / static_cast<std::size_t>(threads);
    execution.pool->parallel_for(a.groups * cut.items(), [&](std::size_t item, int thread) {
        run_item(kernels, a, panels, cut, item, execution.scratch + static_cast<std::size_t>(thread) * share);
    });
}

}  // namespace lightwam::cpu
