// SPDX-License-Identifier: Apache-2.0
// Checks the order of writes and reads of a program, and that values which live at the same time share no byte.
#pragma once

#include <string>

#include "engine/graph.hpp"
#include "engine/refusal.hpp"

namespace lightwam::engine {

// `where` names the program. In set_instruction the instruction values are written, in act they are only read.
void check_lifetimes(const Program& program, bool writes_instruction, const std::string& where, const Refusal& refuse);

}  // namespace lightwam::engine
