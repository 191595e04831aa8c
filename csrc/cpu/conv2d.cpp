// SPDX-License-Identifier: Apache-2.0
#include "conv2d.hpp"

#include <cstring>

#include "product.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

std::size_t taps_of(const Conv2dArgs& a) noexcept { return a.kernel_height * a.kernel_width; }

struct ThreadScratch {
    ThreadScratch(Scratch& scratch, const KernelTable& kernels, const Panels& panels, const Cut& cut)
        : rows(scratch.take<const void*>(panels.taps * cut.rows_per_block)),
          acc(scratch.take<float>(acc_floats(kernels, panels, cut.rows_per_block))) {}
    const void** rows;
    float* acc;
};

struct Plan {
    Plan(const KernelTable& kernels, int thread_count, const Conv2dArgs& a)
        : panels(kernels, a.x.dtype, a.out_channels, taps_of(a), a.in_channels),
          cut(kernels, panels, out_height(a) * out_width(a), thread_count),
          zero_bytes(aligned(panels.padded_depth * size_of(a.x.dtype))) {
        Scratch scratch(nullptr);
        const ThreadScratch one(scratch, kernels, panels, cut);
        thread_bytes = scratch.used();
    }
    Panels panels;
    Cut cut;
    std::size_t zero_bytes;  // one row of zeros stands for every position outside the image
    std::size_t thread_bytes;
};

// Pointers of tap (ky, kx) for the output positions [first, first + count).
void tap_pointers(const Conv2dArgs& a, const void* zeros, std::size_t ky, std::size_t kx, std::size_t first,
                  std::size_t count, const void** rows) noexcept {
    const std::size_t columns = out_width(a);
    std::size_t oy = first / columns;
    std::size_t ox = first % columns;
    for (std::size_t i = 0; i < count; ++i) {
        // Unsigned differences: a position left of or above the image wraps to a huge number.
        const std::size_t y = oy * a.stride + ky - a.padding_top;
        const std::size_t x = ox * a.stride + kx - a.padding_left;
        rows[i] = y < a.height && x < a.width ? element(a.x, (y * a.width + x) * a.in_channels) : zeros;
        if (++ox == columns) {
            ox = 0;
            ++oy;
        }
    }
}

void run_item(const KernelTable& kernels, const Conv2dArgs& a, const Plan& plan, std::size_t item, const void* zeros,
              std::byte* scratch_base) noexcept {
    const std::size_t first = item / plan.cut.panel_groups * plan.cut.rows_per_block;
    const std::size_t group = item % plan.cut.panel_groups;
    Scratch scratch(scratch_base);
    const ThreadScratch mine(scratch, kernels, plan.panels, plan.cut);
    Block block{};
    block.row_stride = plan.cut.rows_per_block;
    block.row_count = std::min(plan.cut.rows_per_block, out_height(a) * out_width(a) - first);
    for (std::size_t tap = 0; tap < plan.panels.taps; ++tap) {
        tap_pointers(a, zeros, tap / a.kernel_width, tap % a.kernel_width, first, block.row_count,
                     mine.rows + tap * block.row_stride);
    }
    block.rows = mine.rows;
    block.weight = a.weight;
    block.first_panel = group * plan.cut.panels_per_group;
    block.last_panel = std::min(block.first_panel + plan.cut.panels_per_group, plan.panels.count);
    block.acc = mine.acc;
    block.bias = a.bias;
    block.activation = a.activation;
    block.stride = a.out_channels;
    block.residual = at(a.residual, first * block.stride);
    block.y = at(a.y, first * block.stride);
    multiply(kernels, plan.panels, block);
}

}  // namespace

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept {
    const Plan plan(kernels, threads, args);
    return plan.zero_bytes + plan.thread_bytes * static_cast<std::size_t>(threads);
}

void run(const Execution& execution, const Conv2dArgs& args) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const Plan plan(kernels, execution.pool->threads(), args);
    std::byte* zeros = execution.scratch;
    std::memset(zeros, 0, plan.zero_bytes);
    std::byte* first = zeros + plan.zero_bytes;
    execution.pool->parallel_for(plan.cut.items(), [&](std::size_t item, int thread) {
        run_item(kernels, args, plan, item, zeros, first + static_cast<std::size_t>(thread) * plan.thread_bytes);
    });
}

}  // namespace lightwam::cpu
