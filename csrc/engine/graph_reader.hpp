// SPDX-License-Identifier: Apache-2.0
// From the JSON document of an engine file to a checked Graph.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "engine/graph.hpp"
#include "engine/json_reader.hpp"

namespace lightwam::engine {

// Tensor name -> index in Graph::tensors.
using TensorIndex = std::unordered_map<std::string_view, std::size_t>;

// Section 2 of the format. Needs graph.tensors; fills graph.policy.
void read_policy(const ObjectReader& document, const TensorIndex& tensors, Graph& graph);

// Sections 1 and 3: the whole document, verified. Needs graph.tensors; fills the rest.
void read_graph(const JsonValue& json, Graph& graph);

// The stage of an op or a launch.
Stage read_stage(const ObjectReader& reader);

}  // namespace lightwam::engine
