// SPDX-License-Identifier: Apache-2.0
// From an instruction to context rows: known rows of the engine, or its hashed-words encoder. Texts are cleaned before.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.hpp"
#include "runtime/instruction_text.hpp"

namespace lightwam::runtime {

// Of a cleaned text: lower-cased words of ASCII letters, digits and bytes >= 0x80 (docs/reference/engine-format.md,
// "Hashed words").
std::vector<std::string> split_words(std::string_view text);

// FNV-1a, 64 bit.
std::uint64_t hash_word(std::string_view word) noexcept;

// The bytes of a tensor as they stand in the file.
using TextConstant = std::function<const std::byte*(std::size_t tensor)>;

// The texts of the engine's known instructions, cleaned.
std::vector<std::string> clean_known(const engine::Graph& graph, InstructionCleaner& clean);

// What of an engine encodes texts.
struct TextSource {
    const engine::Graph& graph;
    const std::vector<std::string>& known;  // of clean_known
    InstructionCleaner& clean;
    TextConstant constant;
};

// Writes the rows of the cleaned `text` to context [L, text_width] and zeroes those after them; returns how many there
// are. Throws Error (instruction), before anything is written, when the engine cannot encode the text.
std::int32_t encode_instruction(const TextSource& source, std::string_view text, float* context);

// The words of the cleaned text's prompt that are not among those that the text encoder saw in training. None for a
// known instruction, and where the engine does not tell its words.
std::vector<std::string> unseen_words(const TextSource& source, std::string_view text);

// "'a', 'b' and 3 more", or "none", for messages.
std::string known_instructions(const engine::Graph& graph);

}  // namespace lightwam::runtime
