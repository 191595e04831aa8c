// SPDX-License-Identifier: Apache-2.0
//
// Values of f32 or bf16 to 8 bits, each row by itself (engine-format.md, section 4.1). Conventions: linear.hpp.
// Needs no scratch.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

// x[r, k] ~ scale[r] * (y[r, k] - zero[r]), off by at most half a scale (one where y is -128 or 127). The scale of a
// row that holds NaN or infinity, or whose range overflows f32, is not finite.
struct QuantizeRowsArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    std::int8_t* y = nullptr;      // [rows, columns]
    float* scale = nullptr;        // [rows]
    std::int32_t* zero = nullptr;  // [rows], each in [-128, 127]
};
void run(const Execution& execution, const QuantizeRowsArgs& args) noexcept;

}  // namespace lightwam::cpu
