// SPDX-License-Identifier: Apache-2.0
// f16 as f32: every number exactly, and a graph whose values keep apart (or in place) at twice the offsets.
#include <cmath>
#include <cstring>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"
#include "runtime/half.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

constexpr std::uint32_t kPatterns = 0x10000;

// Sign, five bits of exponent counted from 15, ten bits of fraction; subnormal without an exponent.
double value_of(std::uint32_t half) {
    const int exponent = static_cast<int>(half >> 10 & 31);
    const double fraction = static_cast<double>(half & 1023) / 1024.0;
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0 + fraction, exponent - 15);
    return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

void test_every_number() {
    std::vector<std::uint16_t> halves;
    for (std::uint32_t half = 0; half < kPatterns; ++half)
        if ((half >> 10 & 31) != 31) halves.push_back(static_cast<std::uint16_t>(half));
    EXPECT(halves.size() == kPatterns - 2 * 1024);
    std::vector<float> wide(halves.size() + 1, 7.0F);
    runtime::widen_halves(reinterpret_cast<const std::byte*>(halves.data()), halves.size(), wide.data());
    for (std::size_t i = 0; i < halves.size(); ++i) {
        EXPECT(static_cast<double>(wide[i]) == value_of(halves[i]));
        EXPECT(std::signbit(wide[i]) == ((halves[i] & 0x8000) != 0));
    }
    EXPECT(wide.back() == 7.0F);
}

engine::Value value(const char* name, engine::DType dtype, std::int64_t count, std::uint64_t offset,
                    engine::Storage storage = engine::Storage::arena) {
    engine::Value made{name, dtype, {count}, storage, offset, 0};
    made.bytes = static_cast<std::uint64_t>(count) * engine::dtype_bytes(dtype);
    return made;
}

engine::Graph graph_with_halves() {
    engine::Graph graph;
    graph.name = "halves";
    graph.precision = engine::Precision::f16;
    graph.instruction_bytes = 128;
    graph.set_instruction.values = {value("key", engine::DType::f16, 64, 0, engine::Storage::instruction)};
    graph.act.arena_bytes = 320;
    graph.act.values = {value("state", engine::DType::f32, 8, 0, engine::Storage::input),
                        value("x", engine::DType::f16, 64, 64), value("y", engine::DType::f32, 16, 192),
                        value("q", engine::DType::i8, 64, 256)};
    graph.tensors.push_back({"w", engine::DType::f16, {4, 8}, 0, 64, {}, false, false});
    return graph;
}

void test_a_graph() {
    const engine::Graph graph = graph_with_halves();
    EXPECT(runtime::has_values_of(graph, engine::DType::f16));
    const engine::Graph wide = runtime::with_wide_values(graph);
    EXPECT(!runtime::has_values_of(wide, engine::DType::f16));
    EXPECT(wide.precision == engine::Precision::f16 && wide.tensors[0].dtype == engine::DType::f16);
    EXPECT(wide.instruction_bytes == 256 && wide.act.arena_bytes == 640 && wide.set_instruction.arena_bytes == 0);
    const engine::Value& key = wide.set_instruction.values[0];
    EXPECT(key.dtype == engine::DType::f32 && key.offset == 0 && key.bytes == 256);
    const std::vector<engine::Value>& values = wide.act.values;
    EXPECT(values[1].dtype == engine::DType::f32 && values[1].offset == 128 && values[1].bytes == 256);
    EXPECT(values[2].dtype == engine::DType::f32 && values[2].offset == 384 && values[2].bytes == 64);
    EXPECT(values[3].dtype == engine::DType::i8 && values[3].offset == 512 && values[3].bytes == 64);
    for (const engine::Value& each : values) EXPECT(each.offset % engine::kAlignment == 0);
}

void test_a_graph_without() {
    engine::Graph graph = graph_with_halves();
    graph.set_instruction.values.clear();
    graph.act.values[1].dtype = engine::DType::bf16;
    EXPECT(!runtime::has_values_of(graph, engine::DType::f16));
    const engine::Graph same = runtime::with_wide_values(graph);
    EXPECT(same.act.arena_bytes == 320 && same.instruction_bytes == 128 && same.act.values[1].offset == 64);
}

void test_blocks_that_grow_too_large() {
    engine::Graph graph = graph_with_halves();
    graph.act.arena_bytes = engine::kMaxBlockBytes / 2 + 64;
    EXPECT(throws_with<Error>("engine 'halves' needs a block of 17179869312 bytes for its values twice as wide",
                              [&] { runtime::with_wide_values(graph); }));
    graph.act.arena_bytes = engine::kMaxBlockBytes / 2;
    EXPECT(runtime::with_wide_values(graph).act.arena_bytes == engine::kMaxBlockBytes);
}

}  // namespace

int main() {
    test_every_number();
    test_a_graph();
    test_a_graph_without();
    test_blocks_that_grow_too_large();
    return finish();
}
