// SPDX-License-Identifier: Apache-2.0
//
// Element by element and layout operations. Conventions: linear.hpp. None needs scratch.
#pragma once

#include "types.hpp"

namespace lightwam::cpu {

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
void run(const Execution& execution, const AddArgs& args) noexcept;

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
void run(const Execution& execution, const ConcatArgs& args) noexcept;

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
void run(const Execution& execution, const ScaleShiftClampArgs& args) noexcept;

// Column `column` becomes sign(-(2 g - 1)) (NaN stays NaN), the others are copied. y may be x.
struct GripperRuleArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    std::size_t column = 0;
    Input x;
    Output y;
};
void run(const Execution& execution, const GripperRuleArgs& args) noexcept;

// y = x in another dtype, rounded to nearest even. Also a plain copy when the dtypes agree.
struct CastArgs {
    std::size_t count = 0;
    Input x;
    Output y;
};
void run(const Execution& execution, const CastArgs& args) noexcept;

// y [positions, channels] = transpose of x [channels, positions], positions = height*width.
struct NchwToNhwcArgs {
    std::size_t channels = 0;
    std::size_t positions = 0;
    Input x;
    Output y;
};
void run(const Execution& execution, const NchwToNhwcArgs& args) noexcept;

}  // namespace lightwam::cpu
