// SPDX-License-Identifier: Apache-2.0
//
// Row normalisations. Conventions: linear.hpp. None needs scratch. y may be x itself.
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
void run(const Execution& execution, const LayerNormArgs& args) noexcept;

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
void run(const Execution& execution, const RmsNormArgs& args) noexcept;

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
void run(const Execution& execution, const RmsNormRopeArgs& args) noexcept;

// y [1, columns] = mean over rows.
struct MeanPoolArgs {
    std::size_t rows = 0;
    std::size_t columns = 0;
    Input x;
    Output y;
};
void run(const Execution& execution, const MeanPoolArgs& args) noexcept;

}  // namespace lightwam::cpu
