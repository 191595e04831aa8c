// SPDX-License-Identifier: Apache-2.0
//
// Values of f32 or bf16 to 8 bits, each row by itself (docs/reference/engine-format.md, section 4.1). Conventions:
// linear.hpp. Needs no scratch.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

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
void run(const Execution& execution, const QuantizeRowsArgs& args) noexcept;

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

}  // namespace lightwam::cpu
