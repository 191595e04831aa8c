// SPDX-License-Identifier: Apache-2.0
//
// Camera images to the canvas: uint8 / 255, rotation, antialiased bilinear resize, then (v - 0.5) / 0.5.
// Conventions: linear.hpp. The buffers that a resize needs belong to its plan, so `run` needs no scratch.
#pragma once

#include <vector>

#include "types.hpp"

namespace lightwam::cpu {

// Weights of one direction: output o is the sum of weights[o*taps + i] * input[first[o] + i] over count[o] <= taps
// inputs.
struct ResizeAxis {
    std::size_t in = 0;
    std::size_t out = 0;
    std::size_t taps = 0;
    std::vector<std::uint32_t> first;
    std::vector<std::uint32_t> count;
    std::vector<float> weights;
};

// Triangle filter with support max(1, in/out), half-pixel centres, weights normalised to a sum of one.
class ResizePlan {
  public:
    ResizePlan() = default;
    // All sizes and `threads` at least 1. Throws std::bad_alloc only.
    ResizePlan(std::size_t in_height, std::size_t in_width, std::size_t out_height, std::size_t out_width, int threads);

    // True when the plan was built for this input size.
    bool fits(std::size_t in_height, std::size_t in_width) const noexcept {
        return rows.in == in_height && columns.in == in_width;
    }

    ResizeAxis rows;
    ResizeAxis columns;
    std::size_t row_stride = 0;              // floats of one thread's row buffer
    mutable std::vector<float> row_buffers;  // [threads, row_stride]
};

// One camera: an image [in_height, in_width, 3] of uint8 with any strides (in bytes, negative ones too), and where it
// goes.
struct CameraImage {
    const std::uint8_t* pixels = nullptr;
    std::ptrdiff_t row_stride = 0;
    std::ptrdiff_t column_stride = 3;
    std::ptrdiff_t channel_stride = 1;
    bool rotate_180 = false;
    std::size_t top = 0;  // rectangle of the canvas; its size is the plan's output size
    std::size_t left = 0;
    const ResizePlan* plan = nullptr;
};

// y [canvas_height, canvas_width, 3]. The rectangles tile the canvas.
struct PreprocessImagesArgs {
    std::size_t canvas_height = 0;
    std::size_t canvas_width = 0;
    const CameraImage* cameras = nullptr;
    std::size_t count = 0;
    Output y;
};
void run(const Execution& execution, const PreprocessImagesArgs& args) noexcept;

}  // namespace lightwam::cpu
