// SPDX-License-Identifier: Apache-2.0
//
// 2-D convolution of a channels-last map, as an indirect matmul or in the Winograd form, which takes a quarter
// of the direct form's products in f32 (F(4x4, 3x3)) and a third in bf16 (F(2x4, 3x3)). Conventions: linear.hpp.
#pragma once

#include <algorithm>

#include "linear.hpp"

namespace lightwam::cpu {

// y [out_height, out_width, out_channels] = act(conv(x [height, width, in_channels]) + bias) + residual.
// out = (in + padding before + padding after - kernel) / stride + 1, in both directions.
struct Conv2dArgs {
    std::size_t height = 0;
    std::size_t width = 0;
    std::size_t in_channels = 0;
    std::size_t out_channels = 0;
    std::size_t kernel_height = 1;
    std::size_t kernel_width = 1;
    std::size_t stride = 1;
    std::size_t padding_top = 0;
    std::size_t padding_left = 0;
    std::size_t padding_bottom = 0;
    std::size_t padding_right = 0;
    Input x;
    ConvForm form = ConvForm::direct;   // winograd: kernel 3x3, stride 1
    const std::byte* weight = nullptr;  // packed in this form from [Cout, kh, kw, Cin]; taps kh*kw
    const float* bias = nullptr;
    Activation activation = Activation::none;
    Input residual;
    Output y;
};

constexpr std::size_t out_height(const Conv2dArgs& a) noexcept {
    return (a.height + a.padding_top + a.padding_bottom - a.kernel_height) / a.stride + 1;
}
constexpr std::size_t out_width(const Conv2dArgs& a) noexcept {
    return (a.width + a.padding_left + a.padding_right - a.kernel_width) / a.stride + 1;
}

// Positions [first, last) of `count` whose windows of `window` columns, `stride` apart, lie inside a row of `width`
// pixels with `padding` before it.
struct InsideColumns {
    constexpr InsideColumns(std::size_t width, std::size_t padding, std::size_t window, std::size_t stride,
                            std::size_t count) noexcept
        : first(std::min((padding + stride - 1) / stride, count)),
          last(width + padding < window ? first : std::clamp((width + padding - window) / stride + 1, first, count)) {}
    std::size_t first;
    std::size_t last;
};

// The faster form for a shape, by sizes and dtype of x alone, so that every instruction set and number of threads takes
// the same.
ConvForm conv_form(const Conv2dArgs& args) noexcept;

std::size_t scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept;
void run(const Execution& execution, const Conv2dArgs& args) noexcept;

// The same with form = winograd.
std::size_t winograd_scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept;
void run_winograd(const Execution& execution, const Conv2dArgs& args) noexcept;

}  // namespace lightwam::cpu
