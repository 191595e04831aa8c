// SPDX-License-Identifier: Apache-2.0
// f16 on the processor, whose kernels have none: values and weights become f32, which holds every f16 exactly.
#pragma once

#include <cstddef>

#include "engine/graph.hpp"

namespace lightwam::runtime {

// The graph with f32 in the place of its f16 values, every offset and block twice as large: what did not overlap still
// does not, and what was in place still is. Tensors stay as the file has them. A graph without such values is returned
// as it is. Throws Error (engine) when a block grows too large.
engine::Graph halves_as_f32(const engine::Graph& graph);

// True when a value is f16.
bool has_halves(const engine::Graph& graph) noexcept;

// `count` f16 numbers as f32. Infinity and NaN become large numbers: engines hold none.
void widen_halves(const std::byte* halves, std::size_t count, float* wide) noexcept;

}  // namespace lightwam::runtime
