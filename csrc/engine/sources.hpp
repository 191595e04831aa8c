// SPDX-License-Identifier: Apache-2.0
// Checks the roles that take what one kind of op writes, and nothing else of that shape and dtype.
#pragma once

#include "engine/graph.hpp"
#include "engine/refusal.hpp"

namespace lightwam::engine {

// For graphs whose lifetimes are checked: every value has one writer, and act reads only instruction values that
// set_instruction writes.
void check_sources(const Graph& graph, const Refusal& refuse);

}  // namespace lightwam::engine
