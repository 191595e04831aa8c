// SPDX-License-Identifier: Apache-2.0
#include "engine/graph_reader.hpp"

#include <algorithm>

#include "engine/lifetimes.hpp"
#include "engine/op_checks.hpp"
#include "engine/sources.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kFormatVersion = 1;
constexpr std::size_t kMaxRoles = 256;  // of one op's inputs, constants or outputs

using ValueIndex = std::unordered_map<std::string_view, std::size_t>;

class ProgramReader {
  public:
    ProgramReader(const JsonValue& json, std::string where, Graph& graph, Program& program, const TensorIndex& tensors,
                  const Refusal& refuse)
        : json_(json), where_(std::move(where)), graph_(graph), program_(program), tensors_(tensors), refuse_(refuse) {}

    void run() {
        expect_keys(json_, {"arena_bytes", "values", "outputs", "ops"}, where_, refuse_);
        program_.arena_bytes = static_cast<std::uint64_t>(
            read_integer(json_, where_, "arena_bytes", 0, static_cast<std::int64_t>(kMaxBlockBytes), refuse_));
        const JsonValue::Array& values = read_list(json_, where_, "values", refuse_);
        program_.values.reserve(values.size());
        for (const JsonValue& item : values) read_value(item);
        for (std::size_t i = 0; i < program_.values.size(); ++i)
            if (!values_.emplace(program_.values[i].name, i).second)
                refuse_(where_ + ": value '" + program_.values[i].name + "' is there twice");
        const JsonValue::Array& ops = read_list(json_, where_, "ops", refuse_);
        program_.ops.reserve(ops.size());
        for (const JsonValue& item : ops) read_op(item);
        program_.outputs = read_bindings(json_, where_, "outputs", "value", values_);
    }

  private:
    template <typename Names>
    std::vector<Binding> read_bindings(const JsonValue& object, const std::string& where, const std::string& key,
                                       const char* what, const Names& names) {
        std::vector<Binding> bindings;
        const JsonValue::Object& members = *read_object(object, where, key, refuse_).object();
        if (members.size() > kMaxRoles)
            refuse_(where + ": '" + key + "' has " + std::to_string(members.size()) + " roles; expected at most 256");
        for (const auto& [role, value] : members) {
            if (value.string() == nullptr)
                refuse_(where + ": " + key + " '" + role + "' is " + value.type_name() + "; expected a string");
            const auto found = names.find(*value.string());
            if (found == names.end())
                refuse_(where + ": " + key + " '" + role + "' names the " + what + " '" + *value.string() +
                        "', which is not there");
            bindings.push_back({role, found->second});
        }
        return bindings;
    }

    void read_value(const JsonValue& item) {
        std::string where = where_ + ": value " + std::to_string(program_.values.size());
        expect_keys(item, {"name", "dtype", "shape", "storage", "offset"}, where, refuse_);
        Value value;
        value.name = read_string(item, where, "name", refuse_);
        where = where_ + ": value '" + value.name + "'";
        value.dtype = read_dtype(read_string(item, where, "dtype", refuse_), where);
        value.shape = read_shape(item.find("shape"), where, refuse_);
        value.bytes = static_cast<std::uint64_t>(element_count(value.shape)) * dtype_bytes(value.dtype);
        const std::string& storage = read_string(item, where, "storage", refuse_);
        if (storage == "input") {
            value.storage = Storage::input;
            if (item.find("offset") != nullptr) refuse_(where + ": has an offset; expected none for an input");
        } else if (storage == "arena" || storage == "instruction") {
            value.storage = storage == "arena" ? Storage::arena : Storage::instruction;
            place(item, where, value);
        } else {
            refuse_(where + ": storage '" + storage + "' is unknown; expected arena, input or instruction");
        }
        program_.values.push_back(std::move(value));
    }

    DType read_dtype(const std::string& name, const std::string& where) const {
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8, DType::i8, DType::i32})
            if (name == dtype_name(dtype)) return dtype;
        refuse_(where + ": dtype '" + name + "' is unknown; expected f32, bf16, f16, f8, i8 or i32");
    }

    void place(const JsonValue& item, const std::string& where, Value& value) const {
        const std::uint64_t block = value.storage == Storage::arena ? program_.arena_bytes : graph_.instruction_bytes;
        value.offset = static_cast<std::uint64_t>(
            read_integer(item, where, "offset", 0, static_cast<std::int64_t>(kMaxBlockBytes), refuse_));
        if (value.offset % kAlignment != 0)
            refuse_(where + ": offset " + std::to_string(value.offset) + " is not a multiple of 64");
        if (value.offset > block || value.bytes > block - value.offset)
            refuse_(where + ": bytes " + std::to_string(value.offset) + " to " +
                    std::to_string(value.offset + value.bytes) + " are outside the block of " + std::to_string(block));
    }

    void read_op(const JsonValue& item) {
        std::string where = where_ + ": op " + std::to_string(program_.ops.size());
        expect_keys(item, {"op", "name", "stage", "inputs", "constants", "outputs", "attrs"}, where, refuse_);
        Op op;
        op.name = read_string(item, where, "name", refuse_);
        where += " '" + op.name + "'";
        op.kind = read_kind(read_string(item, where, "op", refuse_), where);
        where += std::string(" (") + op_name(op.kind) + ")";
        op.stage = read_stage(read_string(item, where, "stage", refuse_), where);
        op.inputs = read_bindings(item, where, "inputs", "value", values_);
        op.constants = read_bindings(item, where, "constants", "tensor", tensors_);
        op.outputs = read_bindings(item, where, "outputs", "value", values_);
        const JsonValue& attributes = read_object(item, where, "attrs", refuse_);
        OpChecker checker(graph_, program_, op, attributes, where, refuse_);
        check_op(checker);
        program_.ops.push_back(std::move(op));
    }

    OpKind read_kind(const std::string& name, const std::string& where) const {
        for (int i = 0; i < kOpKindCount; ++i)
            if (name == op_name(static_cast<OpKind>(i))) return static_cast<OpKind>(i);
        refuse_(where + ": op '" + name + "' is unknown to this version of lightwam");
    }

    Stage read_stage(const std::string& name, const std::string& where) const {
        for (int i = 0; i < kStageCount; ++i)
            if (name == stage_name(static_cast<Stage>(i))) return static_cast<Stage>(i);
        refuse_(where + ": stage '" + name + "' is unknown");
    }

    const JsonValue& json_;
    std::string where_;
    Graph& graph_;
    Program& program_;
    const TensorIndex& tensors_;
    const Refusal& refuse_;
    ValueIndex values_;
};

struct ExpectedInput {
    std::string_view name;
    DType dtype;
    Shape shape;
};

void check_inputs(const Program& program, const std::vector<ExpectedInput>& expected, const std::string& where,
                  const Refusal& refuse) {
    for (const Value& value : program.values) {
        if (value.storage != Storage::input) continue;
        const auto found = std::find_if(expected.begin(), expected.end(),
                                        [&](const ExpectedInput& input) { return input.name == value.name; });
        if (found == expected.end()) refuse(where + ": input '" + value.name + "' is unknown");
        if (found->dtype != value.dtype || found->shape != value.shape)
            refuse(where + ": input '" + value.name + "' is " + dtype_name(value.dtype) + " " +
                   shape_text(value.shape) + "; expected " + dtype_name(found->dtype) + " " + shape_text(found->shape));
    }
}

void check_act_outputs(const Graph& graph, const Refusal& refuse) {
    const std::string where = "program 'act'";
    const Program& act = graph.act;
    if (act.outputs.size() != 1 || act.outputs[0].role != "actions")
        refuse(where + ": 'outputs' must hold 'actions' and nothing else");
    const Value& actions = act.values[act.outputs[0].index];
    const Shape expected = {graph.policy.horizon, graph.policy.action_width};
    if (actions.dtype != DType::f32 || actions.shape != expected || actions.storage != Storage::arena)
        refuse(where + ": output 'actions' is " + dtype_name(actions.dtype) + " " + shape_text(actions.shape) +
               "; expected f32 " + shape_text(expected) + " in the arena");
}

void check_preprocessing(const Graph& graph, const Refusal& refuse) {
    const auto count = std::count_if(graph.act.ops.begin(), graph.act.ops.end(),
                                     [](const Op& op) { return op.kind == OpKind::preprocess_images; });
    const std::ptrdiff_t expected = graph.policy.starts_at_images ? 1 : 0;
    if (count != expected)
        refuse("program 'act': has " + std::to_string(count) + " ops 'preprocess_images'; expected " +
               std::to_string(expected));
}

// What act reads from the instruction's cache block is exactly what set_instruction has written there.
void check_instruction_values(const Graph& graph, const Refusal& refuse) {
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
            refuse("program 'act': instruction value '" + value.name + "' is not written by set_instruction");
        const Value& source = *found->second;
        if (source.dtype != value.dtype || source.shape != value.shape || source.offset != value.offset)
            refuse("program 'act': instruction value '" + value.name + "' is " + dtype_name(value.dtype) + " " +
                   shape_text(value.shape) + " at " + std::to_string(value.offset) + "; set_instruction writes " +
                   dtype_name(source.dtype) + " " + shape_text(source.shape) + " at " + std::to_string(source.offset));
    }
}

void check_format(const JsonValue& document, const Refusal& refuse) {
    const std::string where = "the document";
    const std::string& format = read_string(document, where, "format", refuse);
    if (format != "lightwam-engine") refuse("'format' is '" + format + "'; expected lightwam-engine");
    const std::int64_t version = read_integer(document, where, "format_version", 0, INT64_MAX, refuse);
    if (version != kFormatVersion)
        refuse("'format_version' is " + std::to_string(version) + "; this runtime reads version " +
               std::to_string(kFormatVersion) +
               (version > kFormatVersion ? ": install a newer lightwam" : ": export the policy again"));
}

Precision read_precision(const JsonValue& document, const std::string& where, const Refusal& refuse) {
    const std::string& name = read_string(document, where, "precision", refuse);
    for (const Precision precision : {Precision::f32, Precision::bf16, Precision::f16, Precision::int8, Precision::fp8})
        if (name == precision_name(precision)) return precision;
    refuse("'precision' is '" + name + "'; expected f32, bf16, f16, int8 or fp8");
}

void check_programs(const Graph& graph, const Refusal& refuse) {
    const PolicyDescription& policy = graph.policy;
    const std::string set_instruction = "program 'set_instruction'";
    check_inputs(graph.set_instruction,
                 {{"context", DType::f32, {policy.context_rows, policy.text_width}}, {"text_rows", DType::i32, {1}}},
                 set_instruction, refuse);
    std::vector<ExpectedInput> inputs = {{"state", DType::f32, {1, policy.state_width}}};
    if (!policy.starts_at_images)
        inputs.push_back(
            {"latents", DType::f32, {policy.latent_shape[0], policy.latent_shape[1], policy.latent_shape[2]}});
    check_inputs(graph.act, inputs, "program 'act'", refuse);
    if (!graph.set_instruction.outputs.empty()) refuse(set_instruction + ": 'outputs' is not empty");
    check_act_outputs(graph, refuse);
    check_preprocessing(graph, refuse);
    check_instruction_values(graph, refuse);
    check_lifetimes(graph.set_instruction, true, set_instruction, refuse);
    check_lifetimes(graph.act, false, "program 'act'", refuse);
    check_sources(graph, refuse);
}

}  // namespace

void read_graph(const JsonValue& document, Graph& graph, const Refusal& refuse) {
    const std::string where = "the document";
    if (document.object() == nullptr)
        refuse("metadata 'lightwam' is " + std::string(document.type_name()) + "; expected an object");
    check_format(document, refuse);
    graph.name = read_string(document, where, "name", refuse);
    graph.precision = read_precision(document, where, refuse);
    read_member(document, where, "provenance", refuse);
    graph.instruction_bytes = static_cast<std::uint64_t>(
        read_integer(document, where, "instruction_bytes", 0, static_cast<std::int64_t>(kMaxBlockBytes), refuse));

    TensorIndex tensors;
    for (std::size_t i = 0; i < graph.tensors.size(); ++i) tensors.emplace(graph.tensors[i].name, i);
    read_policy(document, tensors, graph, refuse);
    const JsonValue& programs = read_object(document, where, "programs", refuse);
    expect_keys(programs, {"set_instruction", "act"}, "programs", refuse);
    ProgramReader(read_member(programs, "programs", "set_instruction", refuse), "program 'set_instruction'", graph,
                  graph.set_instruction, tensors, refuse)
        .run();
    ProgramReader(read_member(programs, "programs", "act", refuse), "program 'act'", graph, graph.act, tensors, refuse)
        .run();
    check_programs(graph, refuse);
}

}  // namespace lightwam::engine
