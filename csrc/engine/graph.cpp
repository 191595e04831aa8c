// SPDX-License-Identifier: Apache-2.0
#include "engine/graph.hpp"

#include <algorithm>

namespace lightwam {

const char* stage_name(Stage stage) noexcept { return engine::row_of(engine::kStages, stage).name; }

}  // namespace lightwam

namespace lightwam::engine {

std::optional<std::string_view> role_marks(std::string_view roles, std::string_view role) noexcept {
    while (!roles.empty()) {
        const std::string_view entry = roles.substr(0, roles.find(' '));
        const std::string_view name = entry.substr(0, entry.find_first_of("?=*"));
        const std::string_view marks = entry.substr(name.size());
        const bool numbered = marks.find('*') != std::string_view::npos;
        if (numbered ? role.starts_with(name) && role.substr(name.size()).starts_with('.') : role == name) return marks;
        roles.remove_prefix(std::min(entry.size() + 1, roles.size()));
    }
    return std::nullopt;
}

std::string shape_text(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + "]";
}

std::int64_t element_count(const Shape& shape) noexcept {
    if (shape.empty() || shape.size() > kMaxRank) return -1;
    std::int64_t count = 1;
    for (const std::int64_t dimension : shape) {
        if (dimension < 1 || dimension > kMaxElements / count) return -1;
        count *= dimension;
    }
    return count;
}

std::vector<std::size_t> text_constants(const Graph& graph) {
    std::vector<std::size_t> tensors;
    for (const KnownInstruction& known : graph.policy.instructions) tensors.push_back(known.context);
    const TextEncoder& encoder = graph.policy.text_encoder;
    if (encoder.present) tensors.insert(tensors.end(), {encoder.embedding, encoder.position});
    return tensors;
}

std::size_t find_role(const std::vector<Binding>& bindings, std::string_view role) noexcept {
    for (const Binding& binding : bindings)
        if (binding.role == role) return binding.index;
    return npos;
}

Matrix matrix_view(const Shape& shape) noexcept {
    Matrix matrix;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) matrix.rows *= shape[i];
    if (!shape.empty()) matrix.columns = shape.back();
    return matrix;
}

}  // namespace lightwam::engine
