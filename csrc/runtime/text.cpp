// SPDX-License-Identifier: Apache-2.0
#include "runtime/text.hpp"

#include <algorithm>
#include <bit>

namespace lightwam::runtime {
namespace {

constexpr std::size_t kNamedInstructions = 20;
constexpr std::size_t kQuotedBytes = 200;

bool is_word_byte(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 0x80;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Element i of a raw constant as f32.
float element(const std::byte* data, engine::DType dtype, std::size_t i) {
    if (dtype == engine::DType::f32) return reinterpret_cast<const float*>(data)[i];
    return std::bit_cast<float>(static_cast<std::uint32_t>(reinterpret_cast<const std::uint16_t*>(data)[i]) << 16);
}

std::string quoted(std::string_view text) {
    std::string result = "'";
    result += text.substr(0, kQuotedBytes);
    while (text.size() > kQuotedBytes && (static_cast<unsigned char>(result.back()) & 0xC0) == 0x80) result.pop_back();
    return result + (text.size() > kQuotedBytes ? "...'" : "'");
}

// The template with the instruction in the place of {task}.
std::string prompt(const engine::PolicyDescription& policy, std::string_view text) {
    static constexpr std::string_view kTask = "{task}";
    std::string result = policy.prompt_template;
    return result.replace(result.find(kTask), kTask.size(), text);
}

// Index of the known instruction `text`; their number when it is none of them.
std::size_t find_known(const TextSource& source, std::string_view text) {
    return static_cast<std::size_t>(std::ranges::find(source.known, text) - source.known.begin());
}

std::int32_t copy_known(const TextSource& source, std::size_t known, float* context) {
    const std::size_t index = source.graph.policy.instructions[known].context;
    const engine::Tensor& tensor = source.graph.tensors[index];
    const std::byte* rows = source.constant(index);
    const std::size_t count = static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]);
    for (std::size_t i = 0; i < count; ++i) context[i] = element(rows, tensor.dtype, i);
    return static_cast<std::int32_t>(tensor.shape[0]);
}

std::int32_t hash_words(const TextSource& source, std::string_view text, float* context) {
    const engine::Graph& graph = source.graph;
    if (split_words(text).empty())
        throw Error(ErrorKind::instruction, "instruction " + quoted(text) + " holds no word");
    const std::vector<std::string> words = split_words(source.clean(prompt(graph.policy, text)));
    const std::size_t rows = static_cast<std::size_t>(graph.policy.context_rows);
    if (words.size() > rows)
        throw Error(ErrorKind::instruction, "instruction " + quoted(text) + " makes a prompt of " +
                                                std::to_string(words.size()) + " words; this engine takes at most " +
                                                std::to_string(rows));
    const engine::Tensor& embedding = graph.tensors[graph.policy.text_encoder.embedding];
    const engine::Tensor& position = graph.tensors[graph.policy.text_encoder.position];
    const std::byte* embedding_rows = source.constant(graph.policy.text_encoder.embedding);
    const std::byte* position_rows = source.constant(graph.policy.text_encoder.position);
    const std::size_t width = static_cast<std::size_t>(graph.policy.text_width);
    for (std::size_t row = 0; row < words.size(); ++row) {
        const std::size_t bucket = hash_word(words[row]) % static_cast<std::uint64_t>(embedding.shape[0]);
        for (std::size_t i = 0; i < width; ++i)
            context[row * width + i] = element(embedding_rows, embedding.dtype, bucket * width + i) +
                                       element(position_rows, position.dtype, row * width + i);
    }
    return static_cast<std::int32_t>(words.size());
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
    std::vector<std::string> words;
    std::string word;
    for (const char c : text) {
        if (is_word_byte(static_cast<unsigned char>(c))) {
            word += lower(c);
        } else if (!word.empty()) {
            words.push_back(std::move(word));
            word.clear();
        }
    }
    if (!word.empty()) words.push_back(std::move(word));
    return words;
}

std::uint64_t hash_word(std::string_view word) noexcept {
    std::uint64_t hash = 0xCBF29CE484222325ULL;
    for (const char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
    return hash;
}

std::vector<std::string> clean_known(const engine::Graph& graph, InstructionCleaner& clean) {
    std::vector<std::string> texts;
    for (const engine::KnownInstruction& known : graph.policy.instructions) texts.push_back(clean(known.text));
    return texts;
}

std::int32_t encode_instruction(const TextSource& source, std::string_view text, float* context) {
    const engine::Graph& graph = source.graph;
    std::int32_t rows = 0;
    if (const std::size_t known = find_known(source, text); known < source.known.size()) {
        rows = copy_known(source, known, context);
    } else if (graph.policy.text_encoder.present) {
        rows = hash_words(source, text, context);
    } else {
        throw Error(ErrorKind::instruction, "instruction " + quoted(text) + " is unknown to engine '" + graph.name +
                                                "', which has no text encoder; it knows " + known_instructions(graph));
    }
    const std::size_t width = static_cast<std::size_t>(graph.policy.text_width);
    std::fill(context + static_cast<std::size_t>(rows) * width,
              context + static_cast<std::size_t>(graph.policy.context_rows) * width, 0.0F);
    return rows;
}

std::vector<std::string> unseen_words(const TextSource& source, std::string_view text) {
    const std::vector<std::string>& seen = source.graph.policy.text_encoder.words;
    if (seen.empty() || find_known(source, text) < source.known.size()) return {};
    std::vector<std::string> unseen;
    for (const std::string& word : split_words(source.clean(prompt(source.graph.policy, text))))
        if (std::ranges::find(seen, word) == seen.end() && std::ranges::find(unseen, word) == unseen.end())
            unseen.push_back(word);
    return unseen;
}

std::string known_instructions(const engine::Graph& graph) {
    const auto& known = graph.policy.instructions;
    if (known.empty()) return "none";
    std::string text;
    for (std::size_t i = 0; i < std::min(known.size(), kNamedInstructions); ++i)
        text += (i > 0 ? ", " : "") + quoted(known[i].text);
    if (known.size() > kNamedInstructions)
        text += " and " + std::to_string(known.size() - kNamedInstructions) + " more";
    return text;
}

}  // namespace lightwam::runtime
