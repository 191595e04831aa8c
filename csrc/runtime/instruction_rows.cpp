// SPDX-License-Identifier: Apache-2.0
#include "runtime/instruction_rows.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_set>

namespace lightwam::runtime {
namespace {

using engine::Binding;
using engine::Graph;
using engine::Op;
using engine::OpKind;
using engine::Program;
using engine::Storage;
using engine::Value;

using Names = std::unordered_set<std::string_view>;

// Names of the counts that ops text_key_bias write.
Names counts_of_keys(const Program& set_instruction) {
    Names names;
    for (const Op& op : set_instruction.ops)
        if (op.kind == OpKind::text_key_bias)
            names.insert(set_instruction.values[engine::find_role(op.outputs, "key_count")].name);
    return names;
}

// An op of act that reads the input below key_count only, a count that text_key_bias wrote.
bool reads_used_keys(const Graph& graph, const Names& counts, const Op& op, const Binding& input) {
    if (op.kind != OpKind::cross_attention && op.kind != OpKind::cross_attention_folded) return false;
    if (input.role != "key_text" && input.role != "value_text" && input.role != "output_text") return false;
    const Value& count = graph.act.values[engine::find_role(op.inputs, "key_count")];
    return count.storage == Storage::instruction && counts.contains(count.name);
}

// Names of the instruction values of which act reads all rows.
Names read_as_a_whole(const Graph& graph) {
    const Names counts = counts_of_keys(graph.set_instruction);
    Names names;
    for (const Op& op : graph.act.ops) {
        for (const Binding& input : op.inputs) {
            const Value& read = graph.act.values[input.index];
            if (read.storage == Storage::instruction && !reads_used_keys(graph, counts, op, input))
                names.insert(read.name);
        }
    }
    return names;
}

}  // namespace

InstructionRows::InstructionRows(const Graph& graph) {
    const Program& program = graph.set_instruction;
    for (const Value& value : program.values)
        values.push_back(value.shape.size() > 1 && value.shape[0] == graph.policy.context_rows);
    // A vector is one row in the matrix view, but for one number a row: the scales and zero points of rows.
    for (const Op& op : program.ops)
        if (op.kind == OpKind::quantize_rows && values[engine::find_role(op.inputs, "x")])
            for (const Binding& output : op.outputs) values[output.index] = true;
    const Names whole = read_as_a_whole(graph);
    for (std::size_t i = 0; i < program.values.size(); ++i)
        if (whole.contains(program.values[i].name)) values[i] = false;
    // From the last op to the first: an op that computes all rows reads all rows.
    ops.assign(program.ops.size(), false);
    for (std::size_t i = program.ops.size(); i-- > 0;) {
        const Op& op = program.ops[i];
        ops[i] = engine::op_row(op.kind).rows == engine::OpRows::row_wise &&
                 std::ranges::all_of(op.outputs, [&](const Binding& output) { return values[output.index]; });
        if (ops[i]) continue;
        for (const Binding& output : op.outputs) values[output.index] = false;
        for (const Binding& input : op.inputs) values[input.index] = false;
    }
}

std::size_t InstructionRows::bytes(const Graph& graph, std::int64_t rows) const {
    std::size_t total = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const Value& value = graph.set_instruction.values[i];
        if (value.storage != Storage::instruction) continue;
        const auto all = static_cast<std::size_t>(graph.policy.context_rows);
        total += values[i] ? value.bytes / all * static_cast<std::size_t>(rows) : value.bytes;
    }
    return total;
}

}  // namespace lightwam::runtime
