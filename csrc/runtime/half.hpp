// SPDX-License-Identifier: Apache-2.0
// Formats that the CPU's kernels lack: f16 becomes f32 and f8 becomes bf16, which hold every one of their
// numbers.
#pragma once

#include <cstddef>

#include "engine/graph.hpp"

namespace lightwam::runtime {

// The graph with f32 in the place of its f16 values and bf16 in that of its f8 ones, every offset and block twice as
// large: what did not overlap still does not, and what was in place still is. Tensors stay as the file has them. A
// graph without such values is returned as it is. Throws Error (engine) when a block grows too large.
engine::Graph with_wide_values(const engine::Graph& graph);

// True when a value has this format.
bool has_values_of(const engine::Graph& graph, engine::DType dtype) noexcept;

// `count` f16 numbers as f32. Infinity and NaN become large numbers: engines hold none.
void widen_halves(const std::byte* halves, std::size_t count, float* wide) noexcept;

}  // namespace lightwam::runtime
