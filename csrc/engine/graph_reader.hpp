// SPDX-License-Identifier: Apache-2.0
// From the JSON document of an engine file to a checked Graph. All functions fail (error_reporter.hpp).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "engine/graph.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {

// Tensor name -> index in Graph::tensors.
using TensorIndex = std::unordered_map<std::string_view, std::size_t>;

// Section 2 of the format. Needs graph.tensors; fills graph.policy.
void read_policy(const ObjectReader& document, const TensorIndex& tensors, Graph& graph);

// Sections 1 and 3: the whole document, verified. Needs graph.tensors; fills the rest.
void read_graph(const JsonValue& json, Graph& graph);

// The stage of an op or a launch.
Stage read_stage(const ObjectReader& reader);

// Checks the order of writes and reads of a program, and that values which live at the same time share no byte.
// `where` names the program. In set_instruction the instruction values are written, in act they are only read.
void check_lifetimes(const Program& program, bool writes_instruction, const std::string& where);

// Checks the roles that take what one kind of op writes, and nothing else of that shape and dtype. For graphs whose
// lifetimes are checked: every value has one writer, and act reads only instruction values that set_instruction writes.
void check_sources(const Graph& graph);

// Checks that a program computes no more than a bounded number of operations, far more than any policy needs.
void check_work(const Graph& graph, const Program& program, const std::string& where);

}  // namespace lightwam::engine
