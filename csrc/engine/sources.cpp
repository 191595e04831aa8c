// SPDX-License-Identifier: Apache-2.0
#include "engine/graph_reader.hpp"

namespace lightwam::engine {
namespace {

// The op that writes a value, and as which of its outputs; no op for an input of the program.
struct Source {
    const Op* op = nullptr;
    std::string_view role;
};
using Sources = std::vector<Source>;  // by value

std::string quoted(std::string_view text) { return std::string("'").append(text).append("'"); }

Sources sources_of(const Program& program) {
    Sources sources(program.values.size());
    for (const Op& op : program.ops)
        for (const Binding& output : op.outputs) sources[output.index] = {&op, output.role};
    return sources;
}

// An instruction value of act has the source of the value of set_instruction with its name.
Sources act_sources(const Graph& graph, const Sources& set_instruction) {
    std::unordered_map<std::string_view, Source> written;
    for (std::size_t i = 0; i < set_instruction.size(); ++i)
        if (const Value& value = graph.set_instruction.values[i]; value.storage == Storage::instruction)
            written.emplace(value.name, set_instruction[i]);
    Sources sources = sources_of(graph.act);
    for (std::size_t i = 0; i < sources.size(); ++i)
        if (const Value& value = graph.act.values[i]; value.storage == Storage::instruction)
            sources[i] = written[value.name];
    return sources;
}

class SourceCheck {
  public:
    SourceCheck(const Program& program, const Sources& sources, const std::string& where)
        : program_(program), sources_(sources), where_(where) {}

    void run() const {
        for (const Op& op : program_.ops) {
            switch (op.kind) {
                case OpKind::text_key_bias:
                    expect_input(op, "text_rows");
                    break;
                case OpKind::cross_attention:
                case OpKind::cross_attention_folded:
                    // So at least one key is read, no more than there are, and of those computed only.
                    expect_written(op, "key_bias", OpKind::text_key_bias, "key_bias");
                    expect_written(op, "key_count", OpKind::text_key_bias, "key_count");
                    break;
                case OpKind::linear:
                case OpKind::grouped_linear:
                    if (find_role(op.inputs, "x_scale") != npos) expect_quantised(op);
                    break;
                default:
                    break;
            }
        }
    }

  private:
    const Source& source(const Op& op, const char* role) const { return sources_[find_role(op.inputs, role)]; }

    void expect_input(const Op& op, const char* role) const {
        if (program_.values[find_role(op.inputs, role)].storage != Storage::input)
            fail(op, role, "the input of the program");
    }

    void expect_written(const Op& op, const char* role, OpKind kind, const char* output) const {
        const Source& found = source(op, role);
        if (found.op == nullptr || found.op->kind != kind || found.role != output)
            fail(op, role, quoted(output) + " of an op " + op_name(kind));
    }

    void expect_quantised(const Op& op) const {
        expect_written(op, "x", OpKind::quantize_rows, "y");
        const Op* quantised = source(op, "x").op;
        for (const auto& [role, output] : {std::pair{"x_scale", "scale"}, std::pair{"x_zero", "zero"}})
            if (find_role(op.inputs, role) != npos &&
                (source(op, role).op != quantised || source(op, role).role != output))
                fail(op, role, quoted(output) + " of op " + quoted(quantised->name) + ", which writes 'x'");
    }

    [[noreturn]] void fail(const Op& op, const char* role, const std::string& expected) const {
        const Source& found = source(op, role);
        std::string writer = "an input of the program";
        if (found.op != nullptr)
            writer = quoted(found.role) + " of op " + quoted(found.op->name) + " (" + op_name(found.op->kind) + ")";
        engine::fail(where_ + ": op " + quoted(op.name) + " (" + op_name(op.kind) + "): input " + quoted(role) +
                     " is " + quoted(program_.values[find_role(op.inputs, role)].name) + ", " + writer + "; expected " +
                     expected);
    }

    const Program& program_;
    const Sources& sources_;
    const std::string& where_;
};

}  // namespace

void check_sources(const Graph& graph) {
    const Sources set_instruction = sources_of(graph.set_instruction);
    SourceCheck(graph.set_instruction, set_instruction, "program 'set_instruction'").run();
    SourceCheck(graph.act, act_sources(graph, set_instruction), "program 'act'").run();
}

}  // namespace lightwam::engine
