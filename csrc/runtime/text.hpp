// SPDX-License-Identifier: Apache-2.0
// From an instruction to context rows: known rows of the engine, or its hashed-words encoder.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::runtime {

// Lower-cased words of ASCII letters, digits and bytes >= 0x80 (docs/reference/engine-format.md, "Hashed words").
std::vector<std::string> split_words(std::string_view text);

// FNV-1a, 64 bit.
std::uint64_t hash_word(std::string_view word) noexcept;

// The bytes of a tensor as they stand in the file.
using TextConstant = std::function<const std::byte*(std::size_t tensor)>;

// Writes the rows of `text` to context [L, text_width] and zeroes those after them; returns how many there are.
// Throws Error (instruction), before anything is written, when the engine cannot encode the text.
std::int32_t encode_instruction(const engine::Graph& graph, const TextConstant& constant, std::string_view text,
                                float* context);

// "'a', 'b' and 3 more", or "none", for messages.
std::string known_instructions(const engine::Graph& graph);

}  // namespace lightwam::runtime
