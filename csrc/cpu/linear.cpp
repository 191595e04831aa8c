// SPDX-License-Identifier: Apache-2.0
#include "linear.hpp"

#include "product.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

// `groups` products that differ by where x, weight, bias and y begin.
struct Products {
    std::size_t groups;
    std::size_t rows;
    std::size_t depth;
    std::size_t columns;
    LinearArgs args;
};

Products products_of(const LinearArgs& a) noexcept { return {1, a.rows, a.depth, a.columns, a}; }

Products products_of(const GroupedLinearArgs& a) noexcept {
    LinearArgs linear;
    linear.rows = a.rows;
    linear.depth = a.depth;
    linear.columns = a.columns;
    linear.x = a.x;
    linear.weight = a.weight;
    linear.bias = a.bias;
    linear.y = a.y;
    linear.quantisation = a.quantisation;
    return {a.groups, a.rows, a.depth, a.columns, linear};
}

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
Quantisation of_group(const Products& p, std::size_t group, std::size_t first_row, std::size_t rows,
                      const ThreadScratch& mine) noexcept {
    Quantisation found = p.args.quantisation;
    found.weight_scale += group * p.columns;
    found.x_scale += first_row * p.groups + group;
    if (found.x_zero != nullptr) found.x_zero += first_row * p.groups + group;
    if (p.groups == 1) return found;
    for (std::size_t i = 0; i < rows; ++i) {
        mine.x_scale[i] = found.x_scale[i * p.groups];
        if (found.x_zero != nullptr) mine.x_zero[i] = found.x_zero[i * p.groups];
    }
    found.x_scale = mine.x_scale;
    if (found.x_zero != nullptr) found.x_zero = mine.x_zero;
    return found;
}

std::size_t products_scratch(const KernelTable& kernels, int threads, const Products& p) noexcept {
    const Panels panels(kernels, p.args.x.dtype, p.columns, 1, p.depth);
    Scratch scratch(nullptr);
    const ThreadScratch one(scratch, kernels, panels, Cut(kernels, panels, p.rows, threads), p.groups);
    return scratch.used() * static_cast<std::size_t>(threads);
}

void run_item(const KernelTable& kernels, const Products& p, const Panels& panels, const Cut& cut, std::size_t item,
              std::byte* scratch_base) noexcept {
    const std::size_t group = item / cut.items();
    const std::size_t panel_group = item % cut.items() / cut.row_blocks;
    const std::size_t first_row = item % cut.row_blocks * cut.rows_per_block;
    Scratch scratch(scratch_base);
    const ThreadScratch mine(scratch, kernels, panels, cut, p.groups);
    const LinearArgs& a = p.args;
    Block block{};
    block.row_count = std::min(cut.rows_per_block, p.rows - first_row);
    for (std::size_t i = 0; i < block.row_count; ++i) {
        mine.rows[i] = element(a.x, ((first_row + i) * p.groups + group) * p.depth);
    }
    block.rows = mine.rows;
    block.row_stride = cut.rows_per_block;
    block.weight = a.weight + group * panels.bytes();
    block.first_panel = cut.first_panel(panel_group);
    block.last_panel = cut.first_panel(panel_group + 1);
    block.next_panel = cut.next_panel(panel_group);
    block.acc = mine.acc;
    block.bias = a.bias == nullptr ? nullptr : a.bias + group * p.columns;
    block.activation = a.activation;
    block.stride = p.groups * p.columns;
    if (a.quantisation.weight_scale != nullptr)
        block.quantisation = of_group(p, group, first_row, block.row_count, mine);
    const std::size_t first = first_row * block.stride + group * p.columns;
    block.residual = at(a.residual, first);
    block.y = at(a.y, first);
    multiply(kernels, panels, block);
}

void run_products(const Execution& execution, const Products& p) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const int threads = execution.pool->threads();
    const Panels panels(kernels, p.args.x.dtype, p.columns, 1, p.depth);
    const Cut cut(kernels, panels, p.rows, threads);
    const std::size_t share = products_scratch(kernels, threads, p) / static_cast<std::size_t>(threads);
    execution.pool->parallel_for(p.groups * cut.items(), [&](std::size_t item, int thread) {
        run_item(kernels, p, panels, cut, item, execution.scratch + static_cast<std::size_t>(thread) * share);
    });
}

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const LinearArgs& args) noexcept {
    return products_scratch(kernels, threads, products_of(args));
}

void run(const Execution& execution, const LinearArgs& args) noexcept { run_products(execution, products_of(args)); }

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const GroupedLinearArgs& args) noexcept {
    return products_scratch(kernels, threads, products_of(args));
}

void run(const Execution& execution, const GroupedLinearArgs& args) noexcept {
    run_products(execution, products_of(args));
}

}  // namespace lightwam::cpu
