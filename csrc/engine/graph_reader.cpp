// SPDX-License-Identifier: Apache-2.0
#include "engine/graph_reader.hpp"

#include <algorithm>

#include "engine/op_checks.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kFormatVersion = 1;
constexpr std::size_t kMaxRoles = 256;  // of one op's inputs, constants or outputs

using ValueIndex = std::unordered_map<std::string_view, std::size_t>;

class ProgramReader {
  public:
    ProgramReader(ObjectReader reader, Graph& graph, Program& program, const TensorIndex& tensors)
        : reader_(std::move(reader)), graph_(graph), program_(program), tensors_(tensors) {}

    void run() {
        reader_.expect_keys({"arena_bytes", "values", "outputs", "ops"});
        program_.arena_bytes = reader_.size("arena_bytes", kMaxBlockBytes);
        const JsonValue::Array& values = reader_.list("values");
        program_.values.reserve(values.size());
        for (const JsonValue& item : values) program_.values.push_back(read_value(item));
        for (std::size_t i = 0; i < program_.values.size(); ++i)
            if (!values_.emplace(program_.values[i].name, i).second)
                reader_.fail("value '" + program_.values[i].name + "' is there twice");
        const JsonValue::Array& ops = reader_.list("ops");
        program_.ops.reserve(ops.size());
        for (const JsonValue& item : ops) program_.ops.push_back(read_op(item));
        program_.outputs = read_bindings(reader_, "outputs", "value", values_);
    }

  private:
    template <typename Names>
    static std::vector<Binding> read_bindings(const ObjectReader& reader, const std::string& key, const char* what,
                                              const Names& names) {
        std::vector<Binding> bindings;
        const ObjectReader object = reader.object(key, reader.where());
        if (object.members().size() > kMaxRoles)
            reader.fail("'" + key + "' has " + std::to_string(object.members().size()) +
                        " roles; expected at most 256");
        for (const auto& [role, value] : object.members()) {
            if (value.string() == nullptr)
                reader.fail(key + " '" + role + "' is " + value.type_name() + "; expected a string");
            const auto found = names.find(*value.string());
            if (found == names.end())
                reader.fail(key + " '" + role + "' names the " + what + " '" + *value.string() +
                            "', which is not there");
            bindings.push_back({role, found->second});
        }
        return bindings;
    }

    Value read_value(const JsonValue& item) const {
        ObjectReader reader(item, reader_.where() + ": value " + std::to_string(program_.values.size()));
        reader.expect_keys({"name", "dtype", "shape", "storage", "offset"});
        Value value;
        value.name = reader.string("name");
        reader.set_where(reader_.where() + ": value '" + value.name + "'");
        value.dtype = reader.known("dtype", kDTypes);
        value.shape = reader.shape();
        value.bytes = static_cast<std::uint64_t>(element_count(value.shape)) * dtype_bytes(value.dtype);
        value.storage = reader.known("storage", kStorages);
        if (value.storage != Storage::input)
            place(reader, value);
        else if (reader.find("offset") != nullptr)
            reader.fail("has an offset; expected none for an input");
        return value;
    }

    void place(const ObjectReader& reader, Value& value) const {
        const std::uint64_t block = value.storage == Storage::arena ? program_.arena_bytes : graph_.instruction_bytes;
        value.offset = reader.size("offset", kMaxBlockBytes);
        if (value.offset % kAlignment != 0)
            reader.fail("offset " + std::to_string(value.offset) + " is not a multiple of 64");
        if (value.offset > block || value.bytes > block - value.offset)
            reader.fail("bytes " + std::to_string(value.offset) + " to " + std::to_string(value.offset + value.bytes) +
                        " are outside the block of " + std::to_string(block));
    }

    Op read_op(const JsonValue& item) const {
        ObjectReader reader(item, reader_.where() + ": op " + std::to_string(program_.ops.size()));
        reader.expect_keys({"op", "name", "stage", "inputs", "constants", "outputs", "attrs"});
        Op op;
        op.name = reader.string("name");
        reader.set_where(reader.where() + " '" + op.name + "'");
        const OpRow* const row = find_name(kOps, reader.string("op"));
        if (row == nullptr) reader.fail("op '" + reader.string("op") + "' is unknown to this version of lightwam");
        op.kind = row->value;
        reader.set_where(reader.where() + " (" + row->name + ")");
        op.stage = read_stage(reader);
        op.inputs = read_bindings(reader, "inputs", "value", values_);
        op.constants = read_bindings(reader, "constants", "tensor", tensors_);
        op.outputs = read_bindings(reader, "outputs", "value", values_);
        OpChecker checker(graph_, program_, op, reader.object("attrs", reader.where()));
        check_op(checker);
        return op;
    }

    ObjectReader reader_;
    Graph& graph_;
    Program& program_;
    const TensorIndex& tensors_;
    ValueIndex values_;
};

struct ExpectedInput {
    std::string_view name;
    DType dtype;
    Shape shape;
};

void check_inputs(const Program& program, const std::vector<ExpectedInput>& expected, const std::string& where) {
    for (const Value& value : program.values) {
        if (value.storage != Storage::input) continue;
        const auto found = std::ranges::find(expected, value.name, &ExpectedInput::name);
        if (found == expected.end()) fail(where + ": input '" + value.name + "' is unknown");
        if (found->dtype != value.dtype || found->shape != value.shape)
            fail(where + ": input '" + value.name + "' is " + dtype_name(value.dtype) + " " + shape_text(value.shape) +
                 "; expected " + dtype_name(found->dtype) + " " + shape_text(found->shape));
    }
}

void check_act_outputs(const Graph& graph) {
    const std::string where = "program 'act'";
    const Program& act = graph.act;
    if (act.outputs.size() != 1 || act.outputs[0].role != "actions")
        fail(where + ": 'outputs' must hold 'actions' and nothing else");
    const Value& actions = act.values[act.outputs[0].index];
    const Shape expected = {graph.policy.horizon, graph.policy.action_width};
    if (actions.dtype != DType::f32 || actions.shape != expected || actions.storage != Storage::arena)
        fail(where + ": output 'actions' is " + dtype_name(actions.dtype) + " " + shape_text(actions.shape) +
             "; expected f32 " + shape_text(expected) + " in the arena");
}

void check_preprocessing(const Graph& graph) {
    const auto count = std::ranges::count(graph.act.ops, OpKind::preprocess_images, &Op::kind);
    const std::ptrdiff_t expected = graph.policy.starts_at_images ? 1 : 0;
    if (count != expected)
        fail("program 'act': has " + std::to_string(count) + " ops 'preprocess_images'; expected " +
             std::to_string(expected));
}

// What act reads from the instruction's cache block is exactly what set_instruction has written there.
void check_instruction_values(const Graph& graph) {
    std::unordered_map<std::string_view, const Value*> written;
    for (const Op& op : graph.set_instruction.ops) {
        for (const Binding& output : op.outputs) {
            const Value& value = graph.set_instruction.values[output.index];
            if (value.storage == Storage::instruction) written.emplace(value.name, &value);
        }
    }
    for (const Value& value : graph.act.values) {
        if (value.storage != Storage::instruction) continue;
        const auto found = written.find(value.name);
        if (found == written.end())
            fail("program 'act': instruction value '" + value.name + "' is not written by set_instruction");
        const Value& source = *found->second;
        if (source.dtype != value.dtype || source.shape != value.shape || source.offset != value.offset)
            fail("program 'act': instruction value '" + value.name + "' is " + dtype_name(value.dtype) + " " +
                 shape_text(value.shape) + " at " + std::to_string(value.offset) + "; set_instruction writes " +
                 dtype_name(source.dtype) + " " + shape_text(source.shape) + " at " + std::to_string(source.offset));
    }
}

void check_format(const ObjectReader& document) {
    const std::string& format = document.string("format");
    if (format != "lightwam-engine") fail("'format' is '" + format + "'; expected lightwam-engine");
    const std::int64_t version = document.integer("format_version", 0, INT64_MAX);
    if (version != kFormatVersion)
        fail("'format_version' is " + std::to_string(version) + "; this runtime reads version " +
             std::to_string(kFormatVersion) +
             (version > kFormatVersion ? ": install a newer lightwam" : ": export the policy again"));
}

Precision read_precision(const ObjectReader& document) {
    const std::string& name = document.string("precision");
    if (const auto* row = find_name(kPrecisions, name); row != nullptr) return row->value;
    fail("'precision' is '" + name + "'; expected " + all_names(kPrecisions));
}

void check_programs(const Graph& graph) {
    const PolicyDescription& policy = graph.policy;
    const std::string set_instruction = "program 'set_instruction'";
    check_inputs(graph.set_instruction,
                 {{"context", DType::f32, {policy.context_rows, policy.text_width}}, {"text_rows", DType::i32, {1}}},
                 set_instruction);
    std::vector<ExpectedInput> inputs = {{"state", DType::f32, {1, policy.state_width}}};
    if (!policy.starts_at_images)
        inputs.push_back(
            {"latents", DType::f32, {policy.latent_shape[0], policy.latent_shape[1], policy.latent_shape[2]}});
    check_inputs(graph.act, inputs, "program 'act'");
    if (!graph.set_instruction.outputs.empty()) fail(set_instruction + ": 'outputs' is not empty");
    check_act_outputs(graph);
    check_preprocessing(graph);
    check_instruction_values(graph);
    check_lifetimes(graph.set_instruction, true, set_instruction);
    check_lifetimes(graph.act, false, "program 'act'");
    check_sources(graph);
    check_work(graph, graph.set_instruction, set_instruction);
    check_work(graph, graph.act, "program 'act'");
}

}  // namespace

Stage read_stage(const ObjectReader& reader) {
    const std::string& name = reader.string("stage");
    if (const auto* row = find_name(kStages, name); row != nullptr) return row->value;
    reader.fail("stage '" + name + "' is unknown");
}

void read_graph(const JsonValue& json, Graph& graph) {
    ObjectReader document(json, "metadata 'lightwam'");
    document.set_where("the document");
    check_format(document);
    graph.name = document.string("name");
    graph.precision = read_precision(document);
    document.member("provenance");
    graph.instruction_bytes = document.size("instruction_bytes", kMaxBlockBytes);

    TensorIndex tensors;
    for (std::size_t i = 0; i < graph.tensors.size(); ++i) tensors.emplace(graph.tensors[i].name, i);
    read_policy(document, tensors, graph);
    const ObjectReader programs = document.object("programs", "programs");
    programs.expect_keys({"set_instruction", "act"});
    const auto read = [&](const std::string& name, Program& program) {
        ObjectReader reader(programs.member(name), "program '" + name + "'");
        ProgramReader(std::move(reader), graph, program, tensors).run();
    };
    read("set_instruction", graph.set_instruction);
    read("act", graph.act);
    check_programs(graph);
}

}  // namespace lightwam::engine
