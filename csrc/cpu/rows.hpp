// SPDX-License-Identifier: Apache-2.0
//
// Operations that treat rows (or columns, or elements) one by one: normalisations, element by element and layout
// operations, values to 8 bits (docs/reference/engine-format.md, section 4.1). Conventions: linear.hpp. None needs
// scratch. Of a norm y may be x itself.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

// y = (x - mean) / sqrt(variance + eps) * weight + bias, over the columns of each row.
struct LayerNormArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    float eps = 1e-6F;
    Input x;
    const float* weight = nullptr;  // [columns] or null
    const float* bias = nullptr;    // [columns] or null
    Output y;
};

// y = act(x / sqrt(mean(x^2) + eps) * weight).
struct RmsNormArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    float eps = 1e-6F;
    Input x;
    const float* weight = nullptr;  // [columns]
    Activation activation = Activation::none;
    Output y;
};

// RMS norm of the whole row [heads*head_width], then rotation of the pairs (2i, 2i+1) of every head by (cos, sin)[row,
// i].
struct RmsNormRopeArgs {
    std::size_t tokens = 0;
    std::size_t heads = 0;
    std::size_t head_width = 0;  // even
    float eps = 1e-6F;
    Input x;
    const float* weight = nullptr;  // [heads*head_width]
    const float* cos = nullptr;     // [tokens, head_width/2]
    const float* sin = nullptr;
    Output y;
};

// y [1, columns] = mean over rows.
struct MeanPoolArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    Output y;
};

// y = a + b, or a - b. y may be a or b when that one is not broadcast.
struct AddArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    bool subtract = false;
    bool broadcast_a = false;  // a is [1, columns]
    bool broadcast_b = false;  // b is [1, columns]
    Input a;
    Input b;
    Output y;
};

// y [rows, sum of widths]: the inputs side by side. `inputs` must outlive the call only.
struct ConcatInput {
    Input x;
    std::size_t columns = 0;
};
struct ConcatArgs {
    std::size_t rows = 0;
    const ConcatInput* inputs = nullptr;
    std::size_t count = 0;
    Output y;
};

// y = clamp(x * scale + shift), NaN stays NaN. Without a bound pass -infinity or +infinity. y may be x.
struct ScaleShiftClampArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    const float* scale = nullptr;  // [columns]
    const float* shift = nullptr;  // [columns]
    float minimum = 0.0F;
    float maximum = 0.0F;
    Output y;
};

// Column `column` becomes sign(-(2 g - 1)) (NaN stays NaN), the others are copied. y may be x.
struct GripperRuleArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    std::size_t column = 0;
    Input x;
    Output y;
};

// y = x in another dtype, rounded to nearest even. Also a plain copy when the dtypes agree.
struct CastArgs {
    std::size_t count = 0;
    Input x;
    Output y;
};

// y [positions, channels] = transpose of x [channels, positions], positions = height*width.
struct NchwToNhwcArgs {
    std::size_t channels = 0;
    std::size_t positions = 0;
    Input x;
    Output y;
};

// To integers. x[r, k] ~ scale[r] * (y[r, k] - zero[r]), off by at most half a scale (one where y is -128 or 127). The
// scale of a row that holds NaN or infinity, or whose range overflows f32, is not finite.
struct QuantizeRowsArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    std::int8_t* y = nullptr;      // [rows, columns]
    float* scale = nullptr;        // [rows]
    std::int32_t* zero = nullptr;  // [rows], each in [-128, 127]
};

// To 8-bit floats (e4m3), which no CPU multiplies, so they are kept as the bf16 numbers that they are.
// x[r, k] ~ scale[r] * y[r, k], where y is one of the numbers of e4m3, at most 448. The scale of a row that holds NaN
// or infinity is not finite.
struct QuantizeRowsF8Args {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    bf16_bits* y = nullptr;  // [rows, columns]
    float* scale = nullptr;  // [rows]
};
void run(const Execution& execution, const QuantizeRowsF8Args& args) noexcept;

// The number of e4m3 nearest to x, ties to even: 448 beyond it. What NaN becomes does not matter.
float round_to_f8(float x) noexcept;

// `count` numbers of e4m3 as bf16, which holds each of them.
void widen_f8(const std::byte* f8, std::size_t count, bf16_bits* wide) noexcept;

// The row kernels of engine/ops.def.
#define LIGHTWAM_ROW_KERNEL(name, arguments, count, width) void run(const Execution&, const arguments&) noexcept;
#include "engine/ops.def"

}  // namespace lightwam::cpu
