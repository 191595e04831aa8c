// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "engine/launch_plan.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kPlanVersion = 1;
constexpr std::int64_t kMaxBlock = static_cast<std::int64_t>(kMaxBlockBytes);
constexpr std::size_t kMaxArguments = 256;
// What every GPU with compute capability 8 or later takes at most; a device's own limits are checked on the device.
constexpr std::int64_t kMaxGridX = 2147483647;
constexpr std::int64_t kMaxGridYZ = 65535;
constexpr std::int64_t kMaxThreads = 1024;
constexpr std::int64_t kWarp = 32;
constexpr std::int64_t kMaxShared = 227 << 10;
constexpr std::int64_t kMaxRegisters = 255;
constexpr std::int64_t kMaxLinear = std::int64_t{1} << 30;  // of a side, so that two of them are no overflow
constexpr std::string_view kProductTypes[] = {"f32", "f16", "bf16", "f8", "i8", "none"};

// Tensors that the graph itself reads: never machine code.
std::unordered_set<std::size_t> graph_constants(const Graph& graph) {
    std::unordered_set<std::size_t> used;
    for (const Program* program : {&graph.set_instruction, &graph.act})
        for (const Op& op : program->ops)
            for (const Binding& constant : op.constants) used.insert(constant.index);
    for (const KnownInstruction& known : graph.policy.instructions) used.insert(known.context);
    if (graph.policy.text_encoder.present) {
        used.insert(graph.policy.text_encoder.embedding);
        used.insert(graph.policy.text_encoder.position);
    }
    return used;
}

class PlanReader {
  public:
    PlanReader(const JsonValue& json, Graph& graph, const Refusal& refuse)
        : json_(json), graph_(graph), refuse_(refuse) {
        for (std::size_t i = 0; i < graph.tensors.size(); ++i) tensors_.emplace(graph.tensors[i].name, i);
    }

    LaunchPlan run() {
        expect_keys(json_, {"plan_version", "weights_bytes", "weights", "images", "tasks", "programs"}, kWhere,
                    refuse_);
        const std::int64_t version = integer(json_, kWhere, "plan_version", 0, INT64_MAX);
        if (version != kPlanVersion)
            refuse_(kWhere + ": 'plan_version' is " + std::to_string(version) + "; this runtime reads version " +
                    std::to_string(kPlanVersion) +
                    (version > kPlanVersion ? ": install a newer lightwam" : ": run 'lightwam compile' again"));
        plan_.weights_bytes = unsigned_integer(json_, kWhere, "weights_bytes", kMaxBlock);
        read_images();
        for (const JsonValue& item : read_list(json_, kWhere, "weights", refuse_)) read_weight(item);
        for (const JsonValue& item : read_list(json_, kWhere, "tasks", refuse_)) read_task(item);
        const JsonValue& programs = read_object(json_, kWhere, "programs", refuse_);
        expect_keys(programs, {"set_instruction", "act"}, kWhere + ": programs", refuse_);
        read_program(programs, "set_instruction", plan_.set_instruction);
        read_program(programs, "act", plan_.act);
        return std::move(plan_);
    }

  private:
    std::int64_t integer(const JsonValue& object, const std::string& where, const std::string& key, std::int64_t low,
                         std::int64_t high) const {
        return read_integer(object, where, key, low, high, refuse_);
    }
    std::uint64_t unsigned_integer(const JsonValue& object, const std::string& where, const std::string& key,
                                   std::int64_t high) const {
        return static_cast<std::uint64_t>(integer(object, where, key, 0, high));
    }
    // An integer or null.
    std::optional<std::uint64_t> bytes_or_null(const JsonValue& object, const std::string& where) const {
        if (read_member(object, where, "bytes", refuse_).is_null()) return std::nullopt;
        return static_cast<std::uint64_t>(integer(object, where, "bytes", 1, kMaxBlock));
    }

    std::size_t find_tensor(const std::string& name, const std::string& where) const {
        const auto found = tensors_.find(name);
        if (found == tensors_.end()) refuse_(where + " names the tensor '" + name + "', which is not there");
        return found->second;
    }

    void read_images() {
        const std::unordered_set<std::size_t> constants = graph_constants(graph_);
        const JsonValue& images = read_object(json_, kWhere, "images", refuse_);
        for (const auto& [target, name] : *images.object()) {
            const std::string where = kWhere + ": image '" + target + "'";
            if (name.string() == nullptr) refuse_(where + " is " + name.type_name() + "; expected a tensor's name");
            PlanImage image{target, read_arch(target, where), find_tensor(*name.string(), where)};
            Tensor& tensor = graph_.tensors[image.tensor];
            if (tensor.dtype != DType::i8)
                refuse_(where + " is in tensor '" + tensor.name + "', " + dtype_name(tensor.dtype) + "; expected i8");
            if (constants.contains(image.tensor))
                refuse_(where + " is in tensor '" + tensor.name + "', a constant of the graph");
            if (tensor.opaque) refuse_(where + " is in tensor '" + tensor.name + "', which holds another image");
            tensor.opaque = true;
            plan_.images.push_back(std::move(image));
        }
        if (plan_.images.empty()) refuse_(kWhere + ": 'images' is empty; run 'lightwam compile' again");
    }

    int read_arch(const std::string& target, const std::string& where) const {
        int arch = 0;
        const char* const end = target.data() + target.size();
        if (target.starts_with("sm_")) {
            const auto [parsed, error] = std::from_chars(target.data() + 3, end, arch);
            // One spelling each: no two images are for the same GPUs.
            const bool spelt = parsed == end && target == "sm_" + std::to_string(arch);
            if (error == std::errc() && spelt && arch >= 10 && arch <= 999) return arch;
        }
        refuse_(where + ": expected a target as 'sm_87'");
    }

    void read_weight(const JsonValue& item) {
        const std::string where = kWhere + ": weight " + std::to_string(plan_.weights.size());
        expect_keys(item, {"tensor", "offset"}, where, refuse_);
        const std::size_t tensor = find_tensor(read_string(item, where, "tensor", refuse_), where);
        if (graph_.tensors[tensor].opaque)
            refuse_(where + " is tensor '" + graph_.tensors[tensor].name + "', which holds machine code");
        plan_.weights.push_back({tensor, unsigned_integer(item, where, "offset", kMaxBlock)});
    }

    void read_task(const JsonValue& item) {
        std::string where = kWhere + ": task " + std::to_string(plan_.tasks.size());
        expect_keys(item, {"kernel", "label", "arguments", "flops", "product_type", "linear", "tactics"}, where,
                    refuse_);
        PlanTask task;
        task.kernel = read_string(item, where, "kernel", refuse_);
        task.label = read_string(item, where, "label", refuse_);
        where += " (" + task.kernel + ")";
        integer(item, where, "flops", 0, INT64_MAX);
        const std::string& products = read_string(item, where, "product_type", refuse_);
        if (std::find(std::begin(kProductTypes), std::end(kProductTypes), products) == std::end(kProductTypes))
            refuse_(where + ": 'product_type' is '" + products + "'; expected f32, f16, bf16, f8, i8 or none");
        const JsonValue::Array& arguments = read_list(item, where, "arguments", refuse_);
        if (arguments.size() > kMaxArguments)
            refuse_(where + ": has " + std::to_string(arguments.size()) + " arguments; expected at most 256");
        for (const JsonValue& argument : arguments) task.arguments.push_back(read_argument(argument, where));
        if (const JsonValue* linear = item.find("linear"); linear != nullptr)
            task.linear = read_linear(*linear, where + ": linear", task.arguments);
        read_tactics(read_object(item, where, "tactics", refuse_), where, task);
        plan_.tasks.push_back(std::move(task));
    }

    PlanArgument read_argument(const JsonValue& item, const std::string& where) const {
        expect_keys(item, {"name", "mode", "bytes"}, where + ": an argument", refuse_);
        PlanArgument argument;
        argument.name = read_string(item, where, "name", refuse_);
        const std::string of = where + ": argument '" + argument.name + "'";
        const std::string& mode = read_string(item, of, "mode", refuse_);
        if (mode != "r" && mode != "w") refuse_(of + ": 'mode' is '" + mode + "'; expected r or w");
        argument.written = mode == "w";
        argument.bytes = bytes_or_null(item, of);
        if (argument.written && !argument.bytes) refuse_(of + ": 'bytes' is null, but it is written");
        return argument;
    }

    // What the arguments are then follows from it.
    PlanLinear read_linear(const JsonValue& item, const std::string& where,
                           const std::vector<PlanArgument>& arguments) const {
        expect_keys(item, {"rows", "outputs", "inputs", "x", "y", "activation"}, where, refuse_);
        PlanLinear linear;
        linear.rows = integer(item, where, "rows", 1, kMaxLinear);
        linear.outputs = integer(item, where, "outputs", 1, kMaxLinear);
        linear.inputs = integer(item, where, "inputs", 1, kMaxLinear);
        linear.x = read_format(item, where, "x");
        linear.y = read_format(item, where, "y");
        if (linear.y != linear.x && linear.y != DType::f32)
            refuse_(where + ": 'y' is " + dtype_name(linear.y) + " where 'x' is " + dtype_name(linear.x) +
                    "; expected that or f32");
        const std::string& activation = read_string(item, where, "activation", refuse_);
        if (activation != "none" && activation != "gelu_tanh")
            refuse_(where + ": 'activation' is '" + activation + "'; expected none or gelu_tanh");
        linear.gelu_tanh = activation == "gelu_tanh";
        const auto has = [&](std::string_view name) {
            return std::any_of(arguments.begin(), arguments.end(),
                               [&](const PlanArgument& argument) { return argument.name == name; });
        };
        linear.bias = has("bias");
        linear.residual = has("residual");
        if (linear.residual && linear.gelu_tanh) refuse_(where + ": has a residual and an activation");
        check_linear(linear, where, arguments);
        return linear;
    }

    void check_linear(const PlanLinear& linear, const std::string& where,
                      const std::vector<PlanArgument>& arguments) const {
        const auto bytes = [](DType format, std::int64_t rows, std::int64_t columns) {
            return static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(columns) * dtype_bytes(format);
        };
        std::vector<PlanArgument> expected = {{"x", false, bytes(linear.x, linear.rows, linear.inputs)},
                                              {"weight", false, bytes(linear.x, linear.outputs, linear.inputs)}};
        if (linear.bias) expected.push_back({"bias", false, bytes(DType::f32, 1, linear.outputs)});
        if (linear.residual) expected.push_back({"residual", false, bytes(linear.y, linear.rows, linear.outputs)});
        expected.push_back({"y", true, bytes(linear.y, linear.rows, linear.outputs)});
        if (expected.size() != arguments.size())
            refuse_(where + ": its task has " + std::to_string(arguments.size()) + " arguments; expected " +
                    std::to_string(expected.size()));
        for (std::size_t i = 0; i < expected.size(); ++i) {
            const PlanArgument& found = arguments[i];
            if (found.name != expected[i].name || found.written != expected[i].written ||
                found.bytes != expected[i].bytes)
                refuse_(where + ": argument " + std::to_string(i) + " is '" + found.name + "' of " +
                        (found.bytes ? std::to_string(*found.bytes) : "unknown") + " bytes; expected '" +
                        expected[i].name + "' of " + std::to_string(*expected[i].bytes) +
                        (expected[i].written ? ", written" : ", read"));
        }
    }

    DType read_format(const JsonValue& item, const std::string& where, const std::string& key) const {
        const std::string& name = read_string(item, where, key, refuse_);
        for (const DType format : {DType::f32, DType::f16, DType::bf16})
            if (name == dtype_name(format)) return format;
        refuse_(where + ": '" + key + "' is '" + name + "'; expected f32, f16 or bf16");
    }

    // Every task runs on every target of the file.
    void read_tactics(const JsonValue& json, const std::string& where, PlanTask& task) const {
        for (const PlanImage& image : plan_.images) {
            const std::string of = where + ": tactic of " + image.target;
            std::vector<Tactic>& tactics = task.tactics.emplace_back();
            for (const JsonValue& item : read_list(json, where + ": tactics", image.target, refuse_))
                tactics.push_back(read_tactic(item, of + " " + std::to_string(tactics.size()), image));
            if (tactics.empty()) refuse_(where + ": has no tactic for " + image.target);
        }
        if (json.object()->size() != plan_.images.size())
            refuse_(where + ": has tactics for " + std::to_string(json.object()->size()) + " targets; 'images' has " +
                    std::to_string(plan_.images.size()));
    }

    Tactic read_tactic(const JsonValue& item, const std::string& where, const PlanImage& image) const {
        expect_keys(item, {"entry", "offset", "bytes", "grid", "threads", "shared", "registers", "note"}, where,
                    refuse_);
        Tactic tactic;
        tactic.entry = read_string(item, where, "entry", refuse_);
        tactic.note = read_string(item, where, "note", refuse_);
        if (tactic.entry.empty()) refuse_(where + ": 'entry' is empty");
        const std::uint64_t size = graph_.tensors[image.tensor].bytes;
        tactic.offset = unsigned_integer(item, where, "offset", static_cast<std::int64_t>(size));
        tactic.bytes = static_cast<std::uint64_t>(integer(item, where, "bytes", 1, static_cast<std::int64_t>(size)));
        if (tactic.bytes > size - tactic.offset)
            refuse_(where + ": its machine code is bytes " + std::to_string(tactic.offset) + " to " +
                    std::to_string(tactic.offset + tactic.bytes) + " of an image of " + std::to_string(size));
        const std::vector<std::int64_t> grid = read_integers(item.find("grid"), where, "grid", refuse_);
        if (grid.size() != 3) refuse_(where + ": 'grid' must be [x, y, z]");
        for (std::size_t i = 0; i < 3; ++i) {
            if (grid[i] < 1 || grid[i] > (i == 0 ? kMaxGridX : kMaxGridYZ))
                refuse_(where + ": grid " + shape_text(grid) + " is out of range");
            tactic.grid[i] = static_cast<std::uint32_t>(grid[i]);
        }
        tactic.threads = static_cast<std::uint32_t>(integer(item, where, "threads", kWarp, kMaxThreads));
        if (tactic.threads % kWarp != 0)
            refuse_(where + ": 'threads' is " + std::to_string(tactic.threads) + "; expected a multiple of 32");
        tactic.shared = static_cast<std::uint32_t>(integer(item, where, "shared", 0, kMaxShared));
        integer(item, where, "registers", 0, kMaxRegisters);
        return tactic;
    }

    void read_program(const JsonValue& programs, const std::string& name, PlanProgram& program) const {
        const std::string where = kWhere + ": program '" + name + "'";
        const JsonValue& json = read_object(programs, kWhere + ": programs", name, refuse_);
        expect_keys(json, {"arena_bytes", "buffers", "launches", "side"}, where, refuse_);
        program.arena_bytes = unsigned_integer(json, where, "arena_bytes", kMaxBlock);
        for (const JsonValue& item : read_list(json, where, "buffers", refuse_)) {
            const std::string of = where + ": buffer " + std::to_string(program.buffers.size());
            program.buffers.push_back(read_buffer(item, of));
        }
        for (const JsonValue& item : read_list(json, where, "launches", refuse_)) {
            const std::string of = where + ": launch " + std::to_string(program.launches.size());
            program.launches.push_back(read_launch(item, of, program));
        }
        if (json.find("side") != nullptr) program.side = read_side(json, where, program.launches.size());
    }

    PlanSide read_side(const JsonValue& program, const std::string& program_where, std::size_t launches) const {
        const std::string where = program_where + ": side branch";
        const JsonValue& json = read_object(program, program_where, "side", refuse_);
        expect_keys(json, {"launches", "join"}, where, refuse_);
        PlanSide side;
        const auto all = static_cast<std::int64_t>(launches);
        side.launches = static_cast<std::size_t>(integer(json, where, "launches", 1, all));
        side.join = static_cast<std::size_t>(integer(json, where, "join", 1, all));
        if (side.join <= side.launches)
            refuse_(where + " of " + std::to_string(side.launches) + " launches: 'join' is " +
                    std::to_string(side.join) + "; expected more");
        return side;
    }

    PlanBuffer read_buffer(const JsonValue& item, const std::string& where) const {
        expect_keys(item, {"name", "space", "offset", "bytes"}, where, refuse_);
        PlanBuffer buffer;
        buffer.name = read_string(item, where, "name", refuse_);
        const std::string of = where + " '" + buffer.name + "'";
        const std::string& space = read_string(item, of, "space", refuse_);
        if (space == "instruction")
            buffer.space = Space::instruction;
        else if (space == "input")
            buffer.space = Space::input;
        else if (space == "output")
            buffer.space = Space::output;
        else if (space != "arena")
            refuse_(of + ": 'space' is '" + space + "'; expected arena, instruction, input or output");
        buffer.offset = unsigned_integer(item, of, "offset", kMaxBlock);
        buffer.bytes = bytes_or_null(item, of);
        return buffer;
    }

    Launch read_launch(const JsonValue& item, std::string where, const PlanProgram& program) const {
        expect_keys(item, {"name", "stage", "task", "arguments"}, where, refuse_);
        Launch launch;
        launch.name = read_string(item, where, "name", refuse_);
        where += " '" + launch.name + "'";
        launch.stage = read_stage(read_string(item, where, "stage", refuse_), where);
        if (plan_.tasks.empty()) refuse_(where + ": the plan has no tasks");
        launch.task = static_cast<std::size_t>(
            unsigned_integer(item, where, "task", static_cast<std::int64_t>(plan_.tasks.size()) - 1));
        const JsonValue::Array& arguments = read_list(item, where, "arguments", refuse_);
        const std::size_t expected = plan_.tasks[launch.task].arguments.size();
        if (arguments.size() != expected)
            refuse_(where + ": has " + std::to_string(arguments.size()) + " arguments; its task has " +
                    std::to_string(expected));
        for (const JsonValue& argument : arguments)
            launch.arguments.push_back(read_address(argument, where, program.buffers.size()));
        return launch;
    }

    // ["b", buffer, offset] or ["w", offset].
    PlanAddress read_address(const JsonValue& item, const std::string& where, std::size_t buffers) const {
        const JsonValue::Array* parts = item.array();
        const std::string* kind = parts == nullptr || parts->empty() ? nullptr : parts->front().string();
        const bool weight = kind != nullptr && *kind == "w" && parts->size() == 2;
        const bool buffer = kind != nullptr && *kind == "b" && parts->size() == 3;
        if (!weight && !buffer) refuse_(where + R"(: an argument must be ["b", buffer, offset] or ["w", offset])");
        std::int64_t numbers[2] = {};
        for (std::size_t i = 1; i < parts->size(); ++i) {
            const JsonValue::Number* number = (*parts)[i].number();
            if (number == nullptr || !number->is_integer || number->integer < 0 || number->integer > kMaxBlock)
                refuse_(where + ": an argument holds no index or offset in range");
            numbers[i - 1] = number->integer;
        }
        if (weight) return {true, 0, static_cast<std::uint64_t>(numbers[0])};
        if (static_cast<std::size_t>(numbers[0]) >= buffers)
            refuse_(where + ": an argument names buffer " + std::to_string(numbers[0]) + " of " +
                    std::to_string(buffers));
        return {false, static_cast<std::size_t>(numbers[0]), static_cast<std::uint64_t>(numbers[1])};
    }

    Stage read_stage(const std::string& name, const std::string& where) const {
        for (int i = 0; i < kStageCount; ++i)
            if (name == stage_name(static_cast<Stage>(i))) return static_cast<Stage>(i);
        refuse_(where + ": stage '" + name + "' is unknown");
    }

    inline static const std::string kWhere = "launch plan";

    const JsonValue& json_;
    Graph& graph_;
    const Refusal& refuse_;
    TensorIndex tensors_;
    LaunchPlan plan_;
};

}  // namespace

LaunchPlan read_launch_plan(const JsonValue& gpu, Graph& graph, const Refusal& refuse) {
    return PlanReader(gpu, graph, refuse).run();
}

}  // namespace lightwam::engine
