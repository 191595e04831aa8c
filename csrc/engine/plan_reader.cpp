// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "engine/graph_reader.hpp"
#include "engine/launch_plan.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kPlanVersion = 1;
constexpr std::size_t kMaxArguments = 256;
// What every GPU with compute capability 8 or later takes at most; a device's own limits are checked on the device.
constexpr std::int64_t kMaxGridX = 2147483647;
constexpr std::int64_t kMaxGridYZ = 65535;
constexpr std::int64_t kMaxThreads = 1024;
constexpr std::int64_t kWarp = 32;
constexpr std::int64_t kMaxShared = 227 << 10;
constexpr std::int64_t kMaxRegisters = 255;
constexpr std::int64_t kMaxLinear = std::int64_t{1} << 30;  // of a side, so that two of them are no overflow
constexpr Named<int> kMatmulTypes[] = {{0, "f32"}, {1, "f16"}, {2, "bf16"}, {3, "f8"}, {4, "i8"}, {5, "none"}};
constexpr Named<DType> kLinearFormats[] = {{DType::f32, "f32"}, {DType::f16, "f16"}, {DType::bf16, "bf16"}};
constexpr Named<bool> kGeluTanh[] = {{false, "none"}, {true, "gelu_tanh"}};
constexpr Named<bool> kWritten[] = {{false, "r"}, {true, "w"}};

// Tensors that the graph itself reads: never machine code.
std::unordered_set<std::size_t> graph_constants(const Graph& graph) {
    const std::vector<std::size_t> text = text_constants(graph);
    std::unordered_set<std::size_t> used(text.begin(), text.end());
    for (const Program* program : {&graph.set_instruction, &graph.act})
        for (const Op& op : program->ops)
            for (const Binding& constant : op.constants) used.insert(constant.index);
    return used;
}

// An integer or null.
std::optional<std::uint64_t> bytes_or_null(const ObjectReader& reader) {
    if (reader.member("bytes").is_null()) return std::nullopt;
    return reader.integer("bytes", 1, static_cast<std::int64_t>(kMaxBlockBytes));
}

PlanArgument read_argument(const JsonValue& item, const std::string& where) {
    ObjectReader reader(item, where + ": an argument");
    reader.expect_keys({"name", "mode", "bytes"});
    reader.set_where(where);
    PlanArgument argument;
    argument.name = reader.string("name");
    reader.set_where(where + ": argument '" + argument.name + "'");
    argument.written = reader.one_of("mode", kWritten);
    argument.bytes = bytes_or_null(reader);
    if (argument.written && !argument.bytes) reader.fail("'bytes' is null, but it is written");
    return argument;
}

void check_linear(const PlanLinear& linear, const ObjectReader& reader, const std::vector<PlanArgument>& arguments) {
    const auto bytes = [](DType format, std::int64_t rows, std::int64_t columns) {
        return static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(columns) * dtype_bytes(format);
    };
    std::vector<PlanArgument> expected = {{"x", false, bytes(linear.x, linear.rows, linear.inputs)},
                                          {"weight", false, bytes(linear.x, linear.outputs, linear.inputs)}};
    if (linear.bias) expected.push_back({"bias", false, bytes(DType::f32, 1, linear.outputs)});
    if (linear.residual) expected.push_back({"residual", false, bytes(linear.y, linear.rows, linear.outputs)});
    expected.push_back({"y", true, bytes(linear.y, linear.rows, linear.outputs)});
    if (expected.size() != arguments.size())
        reader.fail("its task has " + std::to_string(arguments.size()) + " arguments; expected " +
                    std::to_string(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const PlanArgument& found = arguments[i];
        if (found.name != expected[i].name || found.written != expected[i].written || found.bytes != expected[i].bytes)
            reader.fail("argument " + std::to_string(i) + " is '" + found.name + "' of " +
                        (found.bytes ? std::to_string(*found.bytes) : "unknown") + " bytes; expected '" +
                        expected[i].name + "' of " + std::to_string(*expected[i].bytes) +
                        (expected[i].written ? ", written" : ", read"));
    }
}

// What the arguments are then follows from it.
PlanLinear read_linear(const ObjectReader& reader, const std::vector<PlanArgument>& arguments) {
    reader.expect_keys({"rows", "outputs", "inputs", "x", "y", "activation"});
    PlanLinear linear;
    linear.rows = reader.integer("rows", 1, kMaxLinear);
    linear.outputs = reader.integer("outputs", 1, kMaxLinear);
    linear.inputs = reader.integer("inputs", 1, kMaxLinear);
    linear.x = reader.one_of("x", kLinearFormats);
    linear.y = reader.one_of("y", kLinearFormats);
    if (linear.y != linear.x && linear.y != DType::f32)
        reader.fail(std::string("'y' is ") + dtype_name(linear.y) + " where 'x' is " + dtype_name(linear.x) +
                    "; expected that or f32");
    linear.gelu_tanh = reader.one_of("activation", kGeluTanh);
    const auto has = [&](std::string_view name) {
        return std::ranges::find(arguments, name, &PlanArgument::name) != arguments.end();
    };
    linear.bias = has("bias");
    linear.residual = has("residual");
    if (linear.residual && linear.gelu_tanh) reader.fail("has a residual and an activation");
    check_linear(linear, reader, arguments);
    return linear;
}

// `code_bytes`: of the target's cubin modules.
Tactic read_tactic(const ObjectReader& reader, std::uint64_t code_bytes) {
    reader.expect_keys({"entry", "offset", "bytes", "grid", "threads", "shared", "registers", "note"});
    Tactic tactic;
    tactic.entry = reader.string("entry");
    tactic.note = reader.string("note");
    if (tactic.entry.empty()) reader.fail("'entry' is empty");
    tactic.offset = reader.size("offset", code_bytes);
    tactic.bytes = static_cast<std::uint64_t>(reader.integer("bytes", 1, static_cast<std::int64_t>(code_bytes)));
    if (tactic.bytes > code_bytes - tactic.offset)
        reader.fail("its machine code is bytes " + std::to_string(tactic.offset) + " to " +
                    std::to_string(tactic.offset + tactic.bytes) + " of an image of " + std::to_string(code_bytes));
    const std::vector<std::int64_t> grid = reader.integers("grid");
    if (grid.size() != 3) reader.fail("'grid' must be [x, y, z]");
    for (std::size_t i = 0; i < 3; ++i) {
        if (grid[i] < 1 || grid[i] > (i == 0 ? kMaxGridX : kMaxGridYZ))
            reader.fail("grid " + shape_text(grid) + " is out of range");
        tactic.grid[i] = static_cast<std::uint32_t>(grid[i]);
    }
    tactic.threads = static_cast<std::uint32_t>(reader.integer("threads", kWarp, kMaxThreads));
    if (tactic.threads % kWarp != 0)
        reader.fail("'threads' is " + std::to_string(tactic.threads) + "; expected a multiple of 32");
    tactic.shared = static_cast<std::uint32_t>(reader.integer("shared", 0, kMaxShared));
    reader.integer("registers", 0, kMaxRegisters);
    return tactic;
}

PlanBuffer read_buffer(ObjectReader reader) {
    reader.expect_keys({"name", "space", "offset", "bytes"});
    PlanBuffer buffer;
    buffer.name = reader.string("name");
    reader.set_where(reader.where() + " '" + buffer.name + "'");
    buffer.space = reader.one_of("space", kSpaces);
    buffer.offset = reader.size("offset", kMaxBlockBytes);
    buffer.bytes = bytes_or_null(reader);
    return buffer;
}

PlanSide read_side(const ObjectReader& reader, std::size_t launches) {
    reader.expect_keys({"launches", "join"});
    PlanSide side;
    const auto all = static_cast<std::int64_t>(launches);
    side.launches = static_cast<std::size_t>(reader.integer("launches", 1, all));
    side.join = static_cast<std::size_t>(reader.integer("join", 1, all));
    if (side.join <= side.launches)
        fail(reader.where() + " of " + std::to_string(side.launches) + " launches: 'join' is " +
             std::to_string(side.join) + "; expected more");
    return side;
}

// ["b", buffer, offset] or ["w", offset].
PlanAddress read_address(const JsonValue& item, const ObjectReader& reader, std::size_t buffers) {
    const JsonValue::Array* parts = item.array();
    const std::string* kind = parts == nullptr || parts->empty() ? nullptr : parts->front().string();
    const bool weight = kind != nullptr && *kind == "w" && parts->size() == 2;
    const bool buffer = kind != nullptr && *kind == "b" && parts->size() == 3;
    if (!weight && !buffer) reader.fail(R"(an argument must be ["b", buffer, offset] or ["w", offset])");
    std::uint64_t numbers[2] = {};
    for (std::size_t i = 1; i < parts->size(); ++i) {
        const JsonValue::Number* number = (*parts)[i].number();
        if (number == nullptr || !number->is_integer || number->integer < 0 ||
            static_cast<std::uint64_t>(number->integer) > kMaxBlockBytes)
            reader.fail("an argument holds no index or offset in range");
        numbers[i - 1] = static_cast<std::uint64_t>(number->integer);
    }
    if (weight) return {true, 0, numbers[0]};
    if (numbers[0] >= buffers)
        reader.fail("an argument names buffer " + std::to_string(numbers[0]) + " of " + std::to_string(buffers));
    return {false, static_cast<std::size_t>(numbers[0]), numbers[1]};
}

class PlanReader {
  public:
    PlanReader(const JsonValue& json, Graph& graph) : reader_(json, "launch plan"), graph_(graph) {
        for (std::size_t i = 0; i < graph.tensors.size(); ++i) tensors_.emplace(graph.tensors[i].name, i);
    }

    LaunchPlan run() {
        reader_.expect_keys({"plan_version", "weights_bytes", "weights", "images", "tasks", "programs"});
        const std::int64_t version = reader_.integer("plan_version", 0, INT64_MAX);
        if (version != kPlanVersion)
            reader_.fail("'plan_version' is " + std::to_string(version) + "; this runtime reads version " +
                         std::to_string(kPlanVersion) +
                         (version > kPlanVersion ? ": install a newer lightwam" : ": run 'lightwam compile' again"));
        plan_.weights_bytes = reader_.size("weights_bytes", kMaxBlockBytes);
        read_targets();
        for (const JsonValue& item : reader_.list("weights")) read_weight(item);
        for (const JsonValue& item : reader_.list("tasks")) read_task(item);
        const ObjectReader programs = reader_.object("programs", reader_.where() + ": programs");
        programs.expect_keys({"set_instruction", "act"});
        read_program(programs, "set_instruction", plan_.set_instruction);
        read_program(programs, "act", plan_.act);
        return std::move(plan_);
    }

  private:
    std::string place(const char* what, std::size_t index) const {
        return reader_.where() + ": " + what + " " + std::to_string(index);
    }

    std::size_t find_tensor(const std::string& name, const std::string& where) const {
        const auto found = tensors_.find(name);
        if (found == tensors_.end()) fail(where + " names the tensor '" + name + "', which is not there");
        return found->second;
    }

    void read_targets() {
        const std::unordered_set<std::size_t> constants = graph_constants(graph_);
        const ObjectReader targets = reader_.object("images", reader_.where());
        for (const auto& [target, name] : targets.members()) {
            const std::string where = reader_.where() + ": image '" + target + "'";
            if (name.string() == nullptr) fail(where + " is " + name.type_name() + "; expected a tensor's name");
            plan_.targets.push_back({target, read_arch(target, where), find_tensor(*name.string(), where)});
            Tensor& tensor = graph_.tensors[plan_.targets.back().tensor];
            const std::string in_tensor = where + " is in tensor '" + tensor.name + "', ";
            if (tensor.dtype != DType::i8) fail(in_tensor + dtype_name(tensor.dtype) + "; expected i8");
            if (constants.contains(plan_.targets.back().tensor)) fail(in_tensor + "a constant of the graph");
            if (tensor.opaque) fail(in_tensor + "which holds another image");
            tensor.opaque = true;
        }
        if (plan_.targets.empty()) reader_.fail("'images' is empty; run 'lightwam compile' again");
    }

    static int read_arch(const std::string& target, const std::string& where) {
        int arch = 0;
        const char* const end = target.data() + target.size();
        if (target.starts_with("sm_")) {
            const auto [parsed, error] = std::from_chars(target.data() + 3, end, arch);
            // One spelling each: no two targets are the same GPUs.
            const bool spelt = parsed == end && target == "sm_" + std::to_string(arch);
            if (error == std::errc() && spelt && arch >= 10 && arch <= 999) return arch;
        }
        fail(where + ": expected a target as 'sm_87'");
    }

    void read_weight(const JsonValue& item) {
        const ObjectReader reader(item, place("weight", plan_.weights.size()));
        reader.expect_keys({"tensor", "offset"});
        const std::size_t tensor = find_tensor(reader.string("tensor"), reader.where());
        if (graph_.tensors[tensor].opaque)
            fail(reader.where() + " is tensor '" + graph_.tensors[tensor].name + "', which holds machine code");
        plan_.weights.push_back({tensor, reader.size("offset", kMaxBlockBytes)});
    }

    void read_task(const JsonValue& item) {
        ObjectReader reader(item, place("task", plan_.tasks.size()));
        reader.expect_keys({"kernel", "label", "arguments", "flops", "product_type", "linear", "tactics"});
        PlanTask task;
        task.kernel = reader.string("kernel");
        task.label = reader.string("label");
        reader.set_where(reader.where() + " (" + task.kernel + ")");
        reader.integer("flops", 0, INT64_MAX);
        reader.one_of("product_type", kMatmulTypes);
        const JsonValue::Array& arguments = reader.list("arguments");
        if (arguments.size() > kMaxArguments)
            reader.fail("has " + std::to_string(arguments.size()) + " arguments; expected at most 256");
        for (const JsonValue& argument : arguments) task.arguments.push_back(read_argument(argument, reader.where()));
        if (const JsonValue* linear = reader.find("linear"); linear != nullptr)
            task.linear = read_linear(ObjectReader(*linear, reader.where() + ": linear"), task.arguments);
        read_tactics(reader, task);
        plan_.tasks.push_back(std::move(task));
    }

    // Every task runs on every target of the file.
    void read_tactics(const ObjectReader& reader, PlanTask& task) const {
        const ObjectReader json = reader.object("tactics", reader.where() + ": tactics");
        for (const PlanTarget& target : plan_.targets) {
            const std::string of = reader.where() + ": tactic of " + target.name;
            std::vector<Tactic>& tactics = task.tactics.emplace_back();
            for (const JsonValue& item : json.list(target.name))
                tactics.push_back(read_tactic(ObjectReader(item, of + " " + std::to_string(tactics.size())),
                                              graph_.tensors[target.tensor].bytes));
            if (tactics.empty()) reader.fail("has no tactic for " + target.name);
        }
        if (json.members().size() != plan_.targets.size())
            reader.fail("has tactics for " + std::to_string(json.members().size()) + " targets; 'images' has " +
                        std::to_string(plan_.targets.size()));
    }

    void read_program(const ObjectReader& programs, const std::string& name, PlanProgram& program) const {
        const std::string where = reader_.where() + ": program '" + name + "'";
        const ObjectReader reader = programs.object(name, where);
        reader.expect_keys({"arena_bytes", "buffers", "launches", "side"});
        program.arena_bytes = reader.size("arena_bytes", kMaxBlockBytes);
        for (const JsonValue& item : reader.list("buffers"))
            program.buffers.push_back(
                read_buffer(ObjectReader(item, where + ": buffer " + std::to_string(program.buffers.size()))));
        for (const JsonValue& item : reader.list("launches"))
            program.launches.push_back(
                read_launch(ObjectReader(item, where + ": launch " + std::to_string(program.launches.size())),
                            program.buffers.size()));
        if (reader.find("side") != nullptr)
            program.side = read_side(reader.object("side", where + ": side stream"), program.launches.size());
    }

    Launch read_launch(ObjectReader reader, std::size_t buffers) const {
        reader.expect_keys({"name", "stage", "task", "arguments"});
        Launch launch;
        launch.name = reader.string("name");
        reader.set_where(reader.where() + " '" + launch.name + "'");
        launch.stage = read_stage(reader);
        if (plan_.tasks.empty()) reader.fail("the plan has no tasks");
        launch.task = static_cast<std::size_t>(reader.size("task", plan_.tasks.size() - 1));
        const JsonValue::Array& arguments = reader.list("arguments");
        const std::size_t expected = plan_.tasks[launch.task].arguments.size();
        if (arguments.size() != expected)
            reader.fail("has " + std::to_string(arguments.size()) + " arguments; its task has " +
                        std::to_string(expected));
        for (const JsonValue& argument : arguments) launch.arguments.push_back(read_address(argument, reader, buffers));
        return launch;
    }

    ObjectReader reader_;
    Graph& graph_;
    TensorIndex tensors_;
    LaunchPlan plan_;
};

}  // namespace

LaunchPlan read_launch_plan(const JsonValue& gpu, Graph& graph) { return PlanReader(gpu, graph).run(); }

}  // namespace lightwam::engine
