// SPDX-License-Identifier: Apache-2.0
// Checks of a whole graph. All of them fail (error_reporter.hpp).
#pragma once

#include <string>

#include "engine/graph.hpp"

namespace lightwam::engine {

// Checks the order of writes and reads of a program, and that values which live at the same time share no byte.
// `where` names the program. In set_instruction the instruction values are written, in act they are only read.
void check_lifetimes(const Program& program, bool writes_instruction, const std::string& where);

// Checks the roles that take what one kind of op writes, and nothing else of that shape and dtype. For graphs whose
// lifetimes are checked: every value has one writer, and act reads only instruction values that set_instruction writes.
void check_sources(const Graph& graph);

}  // namespace lightwam::engine
