// SPDX-License-Identifier: Apache-2.0
#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "isa/kernel_table.hpp"
#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

// Weights in double, rounded once.
ResizeAxis make_axis(std::size_t in, std::size_t out) {
    const double scale = static_cast<double>(in) / static_cast<double>(out);
    const double support = std::max(1.0, scale);
    ResizeAxis axis;
    axis.in = in;
    axis.out = out;
    axis.taps = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
    axis.first.resize(out);
    axis.count.resize(out);
    axis.weights.assign(out * axis.taps, 0.0F);
    std::vector<double> weights(axis.taps);
    for (std::size_t o = 0; o < out; ++o) {
        const double center = (static_cast<double>(o) + 0.5) * scale;
        const double low = std::max(center - support + 0.5, 0.0);
        const auto first = static_cast<std::size_t>(low);
        const auto last = std::min(static_cast<std::size_t>(center + support + 0.5), in);
        const std::size_t count = std::min(last - first, axis.taps);
        double sum = 0.0;
        for (std::size_t i = 0; i < count; ++i) {
            const double distance = std::abs((static_cast<double>(first + i) + 0.5 - center) / support);
            weights[i] = std::max(0.0, 1.0 - distance);
            sum += weights[i];
        }
        for (std::size_t i = 0; i < count; ++i) axis.weights[o * axis.taps + i] = static_cast<float>(weights[i] / sum);
        axis.first[o] = static_cast<std::uint32_t>(first);
        axis.count[o] = static_cast<std::uint32_t>(count);
    }
    return axis;
}

// First and last of the three channels of `count` pixels.
void swap_channels(const Output& row, std::size_t count) noexcept {
    const auto swap_in = [count](auto* pixel) {
        for (std::size_t i = 0; i < count; ++i, pixel += 3) std::swap(pixel[0], pixel[2]);
    };
    if (row.dtype == DType::f32)
        swap_in(static_cast<float*>(row.data));
    else
        swap_in(static_cast<bf16_bits*>(row.data));
}

// Row `o` of one camera's rectangle.
void run_row(const KernelTable& kernels, const PreprocessImagesArgs& a, const CameraImage& camera, std::size_t o,
             int thread) noexcept {
    const ResizePlan& plan = *camera.plan;
    float* sums = plan.row_buffers.data() + static_cast<std::size_t>(thread) * plan.row_stride;
    ResizeRows rows{};
    rows.pixels = camera.pixels;
    rows.row_stride = camera.row_stride;
    if (camera.rotate_180) {
        rows.pixels += static_cast<std::ptrdiff_t>(plan.rows.in - 1) * camera.row_stride;
        rows.row_stride = -camera.row_stride;
    }
    rows.column_stride = camera.column_stride;
    rows.channel_stride = camera.channel_stride;
    // Packed pixels, last channel first: resized as they lie, then turned around.
    const bool reversed = camera.column_stride == 3 && camera.channel_stride == -1;
    if (reversed) {
        rows.pixels -= 2;
        rows.channel_stride = 1;
    }
    rows.in_width = plan.columns.in;
    rows.first = plan.rows.first[o];
    rows.count = plan.rows.count[o];
    rows.weights = plan.rows.weights.data() + o * plan.rows.taps;
    rows.sums = sums;
    kernels.resize_rows(rows);
    ResizeColumns columns{};
    columns.sums = camera.rotate_180 ? sums + (plan.columns.in - 1) * 3 : sums;
    columns.step = camera.rotate_180 ? -3 : 3;
    columns.out = plan.columns.out;
    columns.taps = plan.columns.taps;
    columns.first = plan.columns.first.data();
    columns.count = plan.columns.count.data();
    columns.weights = plan.columns.weights.data();
    columns.y = at(a.y, ((camera.top + o) * a.canvas_width + camera.left) * 3);
    kernels.resize_columns(columns);
    if (reversed) swap_channels(columns.y, columns.out);
}

}  // namespace

// One value more than the columns need: the column pass reads four at a time.
ResizePlan::ResizePlan(std::size_t in_height, std::size_t in_width, std::size_t out_height, std::size_t out_width,
                       int threads)
    : rows(make_axis(in_height, out_height)),
      columns(make_axis(in_width, out_width)),
      row_stride(round_up(in_width * 3 + 1, 16)),
      row_buffers(static_cast<std::size_t>(threads) * row_stride) {}

void run(const Execution& execution, const PreprocessImagesArgs& args) noexcept {
    constexpr std::size_t kRows = 8;  // rows of a work item
    std::size_t items = 0;
    for (std::size_t i = 0; i < args.count; ++i) items += ceil_div(args.cameras[i].plan->rows.out, kRows);
    execution.pool->parallel_for(items, [&](std::size_t item, int thread) {
        const CameraImage* camera = args.cameras;
        for (std::size_t first = item;; ++camera) {
            const std::size_t own = ceil_div(camera->plan->rows.out, kRows);
            if (first < own) {
                const std::size_t end = std::min((first + 1) * kRows, camera->plan->rows.out);
                for (std::size_t o = first * kRows; o < end; ++o) run_row(*execution.kernels, args, *camera, o, thread);
                return;
            }
            first -= own;
        }
    });
}

}  // namespace lightwam::cpu
