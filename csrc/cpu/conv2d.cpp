// SPDX-License-Identifier: Apache-2.0
//
// Convolution as a matmul whose rows are pointers into the image. One row of a window (kernel_width pixels of all
// channels) is contiguous, so a window is kernel_height pointers; rows above and below the image point to zeros. Only
// windows that stick out at the left or right are copied.
#include "conv2d.hpp"

#include <cstring>

#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

std::size_t window_row(const Conv2dArgs& a) noexcept { return a.kernel_width * a.in_channels; }

// bf16 sums over pairs, and pairs may not straddle two pointers: with an odd window row every window is copied.
bool copies_all(const Conv2dArgs& a) noexcept { return a.x.dtype == DType::bf16 && window_row(a) % 2 != 0; }

// Output columns whose windows lie inside the image from left to right.
InsideColumns inside_columns(const Conv2dArgs& a) noexcept {
    return {a.width, a.padding_left, a.kernel_width, a.stride, out_width(a)};
}

Panels panels_of(const KernelTable& kernels, const Conv2dArgs& a) noexcept {
    if (copies_all(a)) return {kernels, a.x.dtype, a.out_channels, 1, a.kernel_height * window_row(a)};
    return {kernels, a.x.dtype, a.out_channels, a.kernel_height, window_row(a)};
}

// Most windows that one block of output positions may have to copy.
std::size_t copied_windows(const Conv2dArgs& a, std::size_t rows_per_block) noexcept {
    if (copies_all(a)) return rows_per_block;
    const InsideColumns inside = inside_columns(a);
    const std::size_t columns = out_width(a) - (inside.last - inside.first);
    return std::min(rows_per_block, columns * (ceil_div(rows_per_block, out_width(a)) + 1));
}

struct ThreadScratch {
    ThreadScratch(Scratch& scratch, const KernelTable& kernels, const Conv2dArgs& a, const Panels& panels,
                  const Cut& cut)
        : rows(scratch.take<const void*>(panels.taps * cut.rows_per_block)),
          acc(scratch.take<float>(acc_floats(kernels, panels, cut.rows_per_block))),
          windows(scratch.take<std::byte>(copied_windows(a, cut.rows_per_block) * a.kernel_height * window_row(a) *
                                          size_of(a.x.dtype))) {}
    const void** rows;
    float* acc;
    std::byte* windows;
};

struct Plan {
    Plan(const KernelTable& kernels, int thread_count, const Conv2dArgs& a)
        : panels(panels_of(kernels, a)),
          cut(kernels, panels, out_height(a) * out_width(a), thread_count),
          zero_bytes(aligned(window_row(a) * size_of(a.x.dtype))) {
        Scratch scratch(nullptr);
        const ThreadScratch one(scratch, kernels, a, panels, cut);
        thread_bytes = scratch.used();
    }
    Panels panels;
    Cut cut;
    std::size_t zero_bytes;  // one window row of zeros
    std::size_t thread_bytes;
};

void copy_window(const Conv2dArgs& a, std::size_t oy, std::size_t ox, bool inside, std::byte* window) noexcept {
    const std::size_t pixel_bytes = a.in_channels * size_of(a.x.dtype);
    const std::size_t row_bytes = a.kernel_width * pixel_bytes;
    const std::size_t left = ox * a.stride - a.padding_left;
    for (std::size_t ky = 0; ky < a.kernel_height; ++ky, window += row_bytes) {
        const std::size_t y = oy * a.stride + ky - a.padding_top;
        if (y >= a.height) {
            std::memset(window, 0, row_bytes);
            continue;
        }
        if (inside) {
            std::memcpy(window, element(a.x, (y * a.width + left) * a.in_channels), row_bytes);
            continue;
        }
        for (std::size_t kx = 0; kx < a.kernel_width; ++kx) {
            std::byte* pixel = window + kx * pixel_bytes;
            if (left + kx < a.width) {
                std::memcpy(pixel, element(a.x, (y * a.width + left + kx) * a.in_channels), pixel_bytes);
            } else {
                std::memset(pixel, 0, pixel_bytes);
            }
        }
    }
}

// Pointers to the windows of the output positions (oy, ox) ... (oy, ox + count - 1), which lie inside.
void point_inside(const Conv2dArgs& a, std::size_t oy, std::size_t ox, std::size_t count, std::size_t row_stride,
                  const std::byte* zeros, const void** rows) noexcept {
    const std::size_t step = a.stride * a.in_channels * size_of(a.x.dtype);
    for (std::size_t ky = 0; ky < a.kernel_height; ++ky, rows += row_stride) {
        const std::size_t y = oy * a.stride + ky - a.padding_top;
        if (y >= a.height) {
            for (std::size_t i = 0; i < count; ++i) rows[i] = zeros;
            continue;
        }
        const std::byte* first = element(a.x, (y * a.width + ox * a.stride - a.padding_left) * a.in_channels);
        for (std::size_t i = 0; i < count; ++i) rows[i] = first + i * step;
    }
}

// Pointers to the windows of the output positions [first, first + count).
void point_to_windows(const Conv2dArgs& a, const Panels& panels, std::size_t first, std::size_t count,
                      std::size_t row_stride, const std::byte* zeros, const ThreadScratch& mine) noexcept {
    const std::size_t columns = out_width(a);
    const std::size_t tap_bytes = panels.depth * size_of(a.x.dtype);
    const bool all = copies_all(a);
    const InsideColumns inside = inside_columns(a);
    std::byte* window = mine.windows;
    for (std::size_t i = 0; i < count;) {
        const std::size_t oy = (first + i) / columns;
        const std::size_t ox = (first + i) % columns;
        const bool is_inside = ox >= inside.first && ox < inside.last;
        if (is_inside && !all) {
            const std::size_t run = std::min(count - i, inside.last - ox);
            point_inside(a, oy, ox, run, row_stride, zeros, mine.rows + i);
            i += run;
            continue;
        }
        copy_window(a, oy, ox, is_inside, window);
        for (std::size_t tap = 0; tap < panels.taps; ++tap, window += tap_bytes)
            mine.rows[tap * row_stride + i] = window;
        ++i;
    }
}

void run_item(const KernelTable& kernels, const Conv2dArgs& a, const Plan& plan, std::size_t item,
              const std::byte* zeros, std::byte* scratch_base) noexcept {
    const std::size_t first = item / plan.cut.panel_groups * plan.cut.rows_per_block;
    const std::size_t group = item % plan.cut.panel_groups;
    Scratch scratch(scratch_base);
    const ThreadScratch mine(scratch, kernels, a, plan.panels, plan.cut);
    Block block{};
    block.row_stride = plan.cut.rows_per_block;
    block.row_count = std::min(plan.cut.rows_per_block, out_height(a) * out_width(a) - first);
    point_to_windows(a, plan.panels, first, block.row_count, block.row_stride, zeros, mine);
    block.rows = mine.rows;
    block.weight = a.weight;
    block.first_panel = plan.cut.first_panel(group);
    block.last_panel = plan.cut.first_panel(group + 1);
    block.next_panel = block.last_panel;
    block.acc = mine.acc;
    block.bias = a.bias;
    block.activation = a.activation;
    block.stride = a.out_channels;
    block.residual = at(a.residual, first * block.stride);
    block.y = at(a.y, first * block.stride);
    multiply(kernels, plan.panels, block);
}

}  // namespace

// Measured as the ratio of CPU times, AVX-512 with BF16 (performance.md): 0.28 to 0.47 from 64 channels on.
// Few channels pay less (f32 16: 0.56, 8: 0.55 to 0.95, 4: 0.95; bf16 48: 0.54, 32: 0.64, and bf16 loses accuracy);
// maps below 6x6 are mostly edge (f32, 5x5: 0.98 to 1.29). Fewer outputs than inputs: the encoder's last convolution,
// small, and what it rounds nothing averages out.
ConvForm conv_form(const Conv2dArgs& a) noexcept {
    constexpr std::size_t kSmallestMap = 6;
    const bool defined = a.kernel_height == 3 && a.kernel_width == 3 && a.stride == 1;
    const std::size_t fewest = a.x.dtype == DType::bf16 ? 48 : 8;
    const bool pays = a.in_channels >= fewest && a.out_channels >= a.in_channels &&
                      std::min(out_height(a), out_width(a)) >= kSmallestMap;
    return defined && pays ? ConvForm::winograd : ConvForm::direct;
}

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept {
    if (args.form == ConvForm::winograd) return winograd_scratch_bytes(kernels, threads, args);
    const Plan plan(kernels, threads, args);
    return plan.zero_bytes + plan.thread_bytes * static_cast<std::size_t>(threads);
}

void run(const Execution& execution, const Conv2dArgs& args) noexcept {
    if (args.form == ConvForm::winograd) return run_winograd(execution, args);
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
