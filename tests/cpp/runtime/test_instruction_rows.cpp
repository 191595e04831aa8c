// SPDX-License-Identifier: Apache-2.0
// Rows of an instruction that attention never reads are left out; all others are computed. The cache's bounds.
#include "engine/engine_file.hpp"
#include "expect.hpp"
#include "runtime/instruction_cache.hpp"
#include "runtime/instruction_rows.hpp"

using namespace lightwam;
using runtime::InstructionRows;

namespace {

// The small engine: linears 'key' and 'value', then text_key_bias, for 6 context rows; act attends to them.
void test_rows(const engine::Graph& good) {
    const InstructionRows rows(good);
    EXPECT((rows.ops == std::vector<bool>{true, true, false}));
    // key and value [6, 8] f32, key_bias [6] f32, key_count.
    EXPECT(rows.bytes(good, 6) == 2 * 6 * 8 * 4 + 6 * 4 + 4);
    EXPECT(rows.bytes(good, 2) == 2 * 2 * 8 * 4 + 6 * 4 + 4);
}

engine::Op& attention_of(engine::Graph& graph) {
    for (engine::Op& op : graph.act.ops)
        if (op.kind == engine::OpKind::cross_attention) return op;
    return graph.act.ops.front();
}

void test_other_readers(const engine::Graph& good) {
    engine::Graph changed = good;
    for (engine::Binding& input : attention_of(changed).inputs)
        if (input.role == "value_text") input.role = "q";  // a role that reads all rows
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{true, false, false}));
    changed = good;
    attention_of(changed).kind = engine::OpKind::self_attention;
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{false, false, false}));
    changed = good;
    changed.set_instruction.ops[2].kind = engine::OpKind::add;  // a count that may be any number
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{false, false, false}));
    changed = good;
    changed.set_instruction.ops[0].kind = engine::OpKind::self_attention;  // its rows need all rows
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{false, true, false}));
    changed = good;
    changed.policy.context_rows = 3;  // two rows of a value to one row of the context
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{false, false, false}));
}

// A vector of L numbers is one row, which is computed whole; scales and zero points are one number a row.
void test_vectors(const engine::Graph& good) {
    engine::Graph changed = good;
    engine::Program& program = changed.set_instruction;
    program.values[program.ops[0].outputs[0].index].shape = {6};
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{false, true, false}));
    changed = good;
    program.ops[0].kind = engine::OpKind::quantize_rows;
    for (const char* role : {"scale", "zero"}) {
        program.ops[0].outputs.push_back({role, program.values.size()});
        program.values.push_back({role, engine::DType::f32, {6}});
    }
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{true, true, false}));
    // Three rows of the matrix view to one row of the context, as the groups of a grouped linear are.
    program.values[program.ops[0].inputs[0].index].shape = {6, 3, 4};
    for (std::size_t added : {1, 2}) program.values[program.values.size() - added].shape = {18};
    EXPECT((InstructionRows(changed).ops == std::vector<bool>{true, true, false}));
}

// As many values and reads as a header holds: comparing each read with each value would take hours.
void test_many_values(const engine::Graph& good) {
    engine::Graph changed = good;
    const std::size_t first = changed.set_instruction.values.size();
    for (std::size_t i = 0; i < 200'000; ++i) {
        const std::string name = "value " + std::to_string(i);
        changed.set_instruction.values.push_back(
            {name, engine::DType::f32, {6, 8}, engine::Storage::instruction, 0, 192});
        changed.act.values.push_back(changed.set_instruction.values.back());
    }
    engine::Op& reader = changed.act.ops.emplace_back();
    reader.kind = engine::OpKind::add;
    for (std::size_t i = 0; i < 400'000; ++i)
        reader.inputs.push_back({"x", changed.act.values.size() - 1 - i / 4});  // the second half of them
    const InstructionRows rows(changed);
    EXPECT(rows.values[first] && rows.values[first + 99'999]);
    EXPECT(!rows.values[first + 100'000] && !rows.values.back());
}

void test_cache_bounds() {
    runtime::InstructionCache cache(3);
    const auto insert = [&](const char* text, std::size_t megabytes) { cache.insert({text, {}, megabytes << 20}); };
    insert("a", 200);
    insert("b", 200);
    EXPECT(cache.find("a") != nullptr && cache.size() == 2);
    insert("c", 200);  // 600 MiB: the least recently used one leaves
    EXPECT(cache.find("b") == nullptr && cache.find("a") != nullptr && cache.find("c") != nullptr);
    insert("d", 1000);  // more than all may hold: alone
    EXPECT(cache.size() == 1 && cache.find("d") != nullptr);
    insert("e", 0);
    EXPECT(cache.size() == 1 && cache.find("e") != nullptr);
    for (const char* text : {"f", "g", "h"}) insert(text, 0);
    EXPECT(cache.size() == 3 && cache.find("e") == nullptr);
}

}  // namespace

int main(int, char** arguments) {
    const engine::EngineFile file(std::string(arguments[1]) + "/small_images.lwam");
    test_rows(file.graph());
    test_other_readers(file.graph());
    test_vectors(file.graph());
    test_many_values(file.graph());
    test_cache_bounds();
    return test::finish();
}
