// SPDX-License-Identifier: Apache-2.0
#include "runtime/half.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace lightwam::runtime {
namespace {

using engine::DType;
using engine::Graph;
using engine::Program;
using engine::Value;

std::uint64_t doubled(std::uint64_t bytes, const Graph& graph) {
    if (bytes > engine::kMaxBlockBytes / 2)
        throw Error(ErrorKind::engine, "engine '" + graph.name + "' needs a block of " + std::to_string(2 * bytes) +
                                           " bytes for its values twice as wide; expected at most " +
                                           std::to_string(engine::kMaxBlockBytes));
    return 2 * bytes;
}

void widen(Program& program, const Graph& graph) {
    program.arena_bytes = doubled(program.arena_bytes, graph);
    for (Value& value : program.values) {
        value.offset *= 2;
        if (value.dtype != DType::f16 && value.dtype != DType::f8) continue;
        value.dtype = value.dtype == DType::f16 ? DType::f32 : DType::bf16;
        value.bytes *= 2;
    }
}

// Exponent and fraction keep their places above those of f32, whose exponent counts from 112 less: so does a factor of
// 2^112, which also makes normal numbers of what is subnormal in f16.
float widen(std::uint16_t half) noexcept {
    const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(half & 0x7FFFU) << 13) * 0x1p112F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) |
                                (static_cast<std::uint32_t>(half & 0x8000U) << 16));
}

}  // namespace

bool has_values_of(const Graph& graph, DType dtype) noexcept {
    const auto is = [&](const Value& value) { return value.dtype == dtype; };
    return std::ranges::any_of(graph.set_instruction.values, is) || std::ranges::any_of(graph.act.values, is);
}

Graph with_wide_values(const Graph& graph) {
    Graph wide = graph;
    if (!has_values_of(graph, DType::f16) && !has_values_of(graph, DType::f8)) return wide;
    wide.instruction_bytes = doubled(graph.instruction_bytes, graph);
    for (Program* program : {&wide.set_instruction, &wide.act}) widen(*program, graph);
    return wide;
}

void widen_halves(const std::byte* halves, std::size_t count, float* wide) noexcept {
    constexpr std::size_t kChunk = 1024;
    std::uint16_t chunk[kChunk];
    for (std::size_t at = 0; at < count; at += kChunk) {
        const std::size_t length = std::min(kChunk, count - at);
        std::memcpy(chunk, halves + at * sizeof(std::uint16_t), length * sizeof(std::uint16_t));
        for (std::size_t i = 0; i < length; ++i) wide[at + i] = widen(chunk[i]);
    }
}

}  // namespace lightwam::runtime
