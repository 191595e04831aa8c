// SPDX-License-Identifier: Apache-2.0
// From the JSON document of an engine file to a checked Graph.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "engine/graph.hpp"
#include "engine/json.hpp"
#include "engine/refusal.hpp"

namespace lightwam::engine {

// Tensor name -> index in Graph::tensors.
using TensorIndex = std::unordered_map<std::string_view, std::size_t>;

// Section 2 of the format. Needs graph.tensors; fills graph.policy.
void read_policy(const JsonValue& document, const TensorIndex& tensors, Graph& graph, const Refusal& refuse);

// Sections 1 and 3: the whole document, verified. Needs graph.tensors; fills the rest.
void read_graph(const JsonValue& document, Graph& graph, const Refusal& refuse);

}  // namespace lightwam::engine
