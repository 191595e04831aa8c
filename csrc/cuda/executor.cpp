// SPDX-License-Identifier: Apache-2.0
#include "cuda/executor.hpp"

#include <algorithm>
#include <cstring>

#include "cuda/program_memory.hpp"
#include "cuda/tuner.hpp"

namespace lightwam::cuda {
namespace {

constexpr std::size_t kChannels = 3;
// Memory set aside for the values of instructions.
constexpr std::uint64_t kInstructionsBytes = std::uint64_t{256} << 20;
constexpr std::size_t kMinSlots = 2;
constexpr std::size_t kMaxSlots = 32;

std::size_t frame_bytes(const ImageView& image) {
    return static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) * kChannels;
}

// A picture of any strides to uint8 [height, width, 3].
void copy_frame(const ImageView& image, std::byte* destination) {
    const auto width = static_cast<std::size_t>(image.width);
    const bool dense = image.channel_stride == 1 && image.column_stride == static_cast<std::int64_t>(kChannels);
    for (std::int64_t y = 0; y < image.height; ++y) {
        const std::uint8_t* const row = image.pixels + y * image.row_stride;
        if (dense) {
            std::memcpy(destination, row, width * kChannels);
            destination += width * kChannels;
            continue;
        }
        for (std::int64_t x = 0; x < image.width; ++x)
            for (std::int64_t c = 0; c < static_cast<std::int64_t>(kChannels); ++c)
                *destination++ = static_cast<std::byte>(row[x * image.column_stride + c * image.channel_stride]);
    }
}

std::string mebibytes(std::size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

DeviceMemory plan_memory(const engine::LaunchPlan& plan, std::uint64_t instruction_bytes, std::size_t slots) {
    DeviceMemory memory;
    memory.weights = static_cast<std::size_t>(plan.weights_bytes);
    memory.arena = aligned(std::max(plan.set_instruction.arena_bytes, plan.act.arena_bytes));
    memory.instructions = aligned(instruction_bytes) * slots;
    memory.staged = bound_bytes(plan.set_instruction) + bound_bytes(plan.act);
    return memory;
}

void check_memory(const Driver& driver, const Gpu& gpu, const DeviceMemory& memory, const std::string& engine_name) {
    const std::size_t free = available_memory(driver, gpu);
    if (memory.total() <= free) return;
    throw Error(ErrorKind::device, "engine '" + engine_name + "' needs " + mebibytes(memory.total()) +
                                       " of memory on GPU '" + gpu.name + "' (weights " + mebibytes(memory.weights) +
                                       ", values " + mebibytes(memory.arena + memory.instructions + memory.staged) +
                                       "), and " + mebibytes(free) +
                                       " are free; free some, take an int8 engine, or pass device='cpu'");
}

// Launches [begin, end), which follow each other, of one stage.
struct StageLaunches {
    Stage stage = Stage::backbone;
    std::size_t begin = 0;
    std::size_t end = 0;
};

std::vector<StageLaunches> by_stage(const engine::PlanProgram& program) {
    std::vector<StageLaunches> parts;
    for (std::size_t i = 0; i < program.launches.size(); ++i) {
        const Stage stage = program.launches[i].stage;
        if (parts.empty() || parts.back().stage != stage) parts.push_back({stage, i, i});
        parts.back().end = i + 1;
    }
    return parts;
}

// A chunk's launches with a slot's instruction, recorded.
struct ChunkGraphs {
    LaunchGraph whole;
    TimedGraph by_stage;
};

}  // namespace

std::size_t instruction_slots(std::uint64_t instruction_bytes, std::size_t capacity) {
    const std::uint64_t fit = kInstructionsBytes / std::max<std::uint64_t>(instruction_bytes, 1);
    const std::size_t most = static_cast<std::size_t>(std::min<std::uint64_t>(fit, kMaxSlots));
    return std::max(std::min(capacity, most), kMinSlots);
}

struct Executor::Loaded {
    Loaded(const Driver& driver, const Gpu& gpu, const engine::EngineFile& file, std::size_t slots,
           const DeviceMemory& sizes, std::vector<std::byte> machine_code, const TacticChoice& choice,
           std::unique_ptr<CublasLt> chosen_library)
        : driver(driver),
          gpu(gpu),
          plan(*file.launch_plan()),
          policy(file.graph().policy),
          memory(sizes),
          code(std::move(machine_code)),
          stream(driver),
          library(std::move(chosen_library)),
          modules(driver, gpu, plan, code, choice, library.get()),
          weights(driver, memory.weights, "the weights"),
          work(driver, memory.arena + memory.instructions, "the values"),
          text(driver, gpu, plan.set_instruction, policy.cameras),
          act(driver, gpu, plan.act, policy.cameras),
          slot_bytes(aligned(file.graph().instruction_bytes)),
          graphs(slots) {
        if (plan.set_instruction.side.launches != 0 || plan.act.side.launches != 0)
            side.emplace(driver, stream.handle());
        // A plan need not read the rows.
        if (text.input<float>("context") == nullptr)
            context.resize(static_cast<std::size_t>(policy.context_rows * policy.text_width));
    }
    // Nothing may still run when the memory goes.
    ~Loaded() { driver.stream_synchronize(stream.handle()); }

    Places places(std::size_t slot) const {
        return {weights.address(), work.address(), work.address() + memory.arena + slot * slot_bytes};
    }
    // With a slot's instruction and the policy's own tactics.
    std::vector<BoundLaunch> bind(const ProgramMemory& program, std::size_t slot) const {
        return program.bind(modules, places(slot));
    }
    // Puts a program's launches onto the stream, and its side stream beside it.
    void launch_program(const std::vector<BoundLaunch>& launches, const engine::PlanSide& beside) const {
        if (beside.launches == 0)
            launch_all(driver, stream.handle(), launches);
        else
            side->launch_all(launches, beside);
    }
    // A chunk's launches in order, with the clock read where the stage changes.
    TimedGraph record_by_stage(std::size_t slot) const;
    // Brings the actions to the CPU and waits for them.
    const float* fetch_actions() const;
    // Runs act once with a slot's instruction if a tactic is a library's: that loads its code with the first call,
    // which may fail while a stream records.
    void load_code(std::size_t slot) const {
        if (library != nullptr) launch_all(driver, stream.handle(), bind(act, slot));
    }
    void stage(const ActInputs& inputs);
    void stage_frame(std::size_t camera, const ImageView& image, std::int32_t* sizes);

    const Driver& driver;
    const Gpu gpu;
    const engine::LaunchPlan plan;
    const engine::PolicyDescription policy;
    DeviceMemory memory;
    const std::vector<std::byte> code;  // the target's cubin modules
    StreamOwner stream;
    std::optional<SideStream> side;     // where a program has one
    std::unique_ptr<CublasLt> library;  // null where no tactic is its
    Modules modules;
    DeviceBlock weights;
    DeviceBlock work;  // the arena, then the slots
    ProgramMemory text;
    ProgramMemory act;
    std::size_t slot_bytes;
    std::vector<ChunkGraphs> graphs;  // by slot
    std::vector<float> context;       // where no kernel reads it
    HostConstants constants;
};

void Executor::Loaded::stage_frame(std::size_t camera, const ImageView& image, std::int32_t* sizes) {
    if (sizes != nullptr) {
        sizes[2 * camera] = static_cast<std::int32_t>(image.height);
        sizes[2 * camera + 1] = static_cast<std::int32_t>(image.width);
    }
    if (!act.reads_frame(camera)) return;
    StagedBlock& block = act.frame(camera);
    const std::size_t bytes = frame_bytes(image);
    if (bytes > block.bytes()) {
        StagedBlock larger(driver, gpu, bytes, "the frames of camera '" + policy.cameras[camera].name + "'");
        // The graphs hold the address of the old one.
        for (ChunkGraphs& graph : graphs) graph = ChunkGraphs();
        memory.staged += larger.bytes() - block.bytes();
        std::swap(block, larger);
    }
    copy_frame(image, block.data());
    block.upload(driver, stream.handle(), bytes);
}

void Executor::Loaded::stage(const ActInputs& inputs) {
    if (float* const state = act.input<float>("state"); state != nullptr)
        std::copy_n(inputs.state, policy.state_width, state);
    if (float* const latents = act.input<float>("latents"); latents != nullptr)
        std::copy_n(inputs.latents, policy.latent_count(), latents);
    auto* const sizes = act.input<std::int32_t>("frame_sizes");
    for (std::size_t camera = 0; camera < policy.cameras.size(); ++camera)
        stage_frame(camera, *inputs.images[camera], sizes);
    act.upload_inputs(stream.handle());
}

TimedGraph Executor::Loaded::record_by_stage(std::size_t slot) const {
    const std::vector<BoundLaunch> launches = bind(act, slot);
    std::vector<TimedGraph::Piece> pieces;
    for (const StageLaunches& part : by_stage(plan.act)) {
        const auto own = std::span(launches).subspan(part.begin, part.end - part.begin);
        pieces.push_back([this, own] { launch_all(driver, stream.handle(), own); });
    }
    return TimedGraph(driver, stream.handle(), pieces);
}

const float* Executor::Loaded::fetch_actions() const {
    act.download_outputs(stream.handle());
    stream.synchronize("computing actions on the GPU");
    return act.output();
}

Executor::Executor(const engine::EngineFile& file, std::size_t slots)
    : driver_(load_driver()), gpu_(find_gpu(driver_, *file.launch_plan(), file.graph())) {
    const engine::LaunchPlan& plan = *file.launch_plan();
    const std::size_t code_tensor = plan.targets[gpu_.target].tensor;
    std::vector<std::byte> code = read_tensor(file, code_tensor);
    file.reporter()([&] { check_cubins(plan, gpu_, code); });
    tuning_key_ = tuning_key(driver_, plan, gpu_, code);
    tactics_ = choose_tactics(file.path(), tuning_key_, plan, gpu_);
    context_.emplace(driver_, gpu_);
    const ContextScope scope(driver_, *context_);
    const DeviceMemory sizes = plan_memory(plan, file.graph().instruction_bytes, slots);
    check_memory(driver_, gpu_, sizes, file.graph().name);
    std::unique_ptr<CublasLt> library = load_library(tactics_, plan, gpu_);
    loaded_ = std::make_unique<Loaded>(driver_, gpu_, file, slots, sizes, std::move(code), tactics_.choice,
                                       std::move(library));
    try {
        for (const std::size_t tensor : engine::text_constants(file.graph()))
            loaded_->constants.emplace(tensor, std::vector<std::byte>());
        upload_weights(file, driver_, loaded_->stream.handle(), loaded_->weights.address(), loaded_->constants,
                       code_tensor);
    } catch (...) {
        loaded_.reset();  // inside of the scope
        throw;
    }
}

Executor::~Executor() {
    if (!loaded_) return;
    // Where the driver fails, the memory goes with the context.
    const bool pushed = driver_.ctx_push_current(context_->handle()) == Result::success;
    loaded_.reset();
    Context popped = nullptr;
    if (pushed) driver_.ctx_pop_current(&popped);
}

const DeviceMemory& Executor::memory() const { return loaded_->memory; }

const std::byte* Executor::text_constant(std::size_t tensor) const { return loaded_->constants.at(tensor).data(); }

float* Executor::context() {
    float* const read = loaded_->text.input<float>("context");
    return read != nullptr ? read : loaded_->context.data();
}

void Executor::set_instruction(std::size_t slot, std::int32_t text_rows) {
    const ContextScope scope(driver_, *context_);
    Loaded& on = *loaded_;
    if (auto* const rows = on.text.input<std::int32_t>("text_rows"); rows != nullptr) *rows = text_rows;
    on.text.upload_inputs(on.stream.handle());
    on.launch_program(on.bind(on.text, slot), on.plan.set_instruction.side);
    on.stream.synchronize("computing the instruction on the GPU");
}

const float* Executor::act(std::size_t slot, const ActInputs& inputs) {
    const ContextScope scope(driver_, *context_);
    Loaded& on = *loaded_;
    on.stage(inputs);
    LaunchGraph& graph = on.graphs[slot].whole;
    if (graph.empty()) {
        on.load_code(slot);
        graph = LaunchGraph(driver_, on.stream.handle(),
                            [&] { on.launch_program(on.bind(on.act, slot), on.plan.act.side); });
    }
    graph.launch(on.stream.handle());
    return on.fetch_actions();
}

const float* Executor::act_by_stage(std::size_t slot, const ActInputs& inputs, Timings& timings) {
    const ContextScope scope(driver_, *context_);
    Loaded& on = *loaded_;
    on.stage(inputs);
    TimedGraph& graph = on.graphs[slot].by_stage;
    if (graph.empty()) {
        on.load_code(slot);
        graph = on.record_by_stage(slot);
    }
    graph.launch(on.stream.handle());
    const float* const actions = on.fetch_actions();
    const std::vector<double> seconds = graph.seconds();
    const std::vector<StageLaunches> parts = by_stage(on.plan.act);
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const auto stage = static_cast<std::size_t>(parts[i].stage);
        timings.present[stage] = true;
        timings.seconds[stage] += seconds[i];
    }
    return actions;
}

Tuning Executor::tune(std::size_t slot, std::size_t spare, const ActInputs& inputs, int repeats,
                      const TuningProgress& progress) {
    const ContextScope scope(driver_, *context_);
    Loaded& on = *loaded_;
    on.stage(inputs);
    on.text.upload_inputs(on.stream.handle());
    const auto count = static_cast<std::size_t>(on.policy.horizon * on.policy.action_width);
    const CublasLt* library = on.library.get();
    std::unique_ptr<CublasLt> own;
    std::string why_not;
    const auto useful = [](const engine::PlanTask& task) { return task.linear.has_value(); };
    if (library == nullptr && std::ranges::any_of(on.plan.tasks, useful)) {
        own = CublasLt::load(why_not);
        library = own.get();
    }
    const TuningGround ground{
        driver_,
        gpu_,
        on.plan,
        on.code,
        on.stream,
        library,
        why_not,
        [&](const Modules& modules) { return on.text.bind(modules, on.places(spare)); },
        [&](const Modules& modules) { return on.act.bind(modules, on.places(slot)); },
        [&](const std::vector<BoundLaunch>& launches, const engine::PlanSide& side) {
            on.launch_program(launches, side);
        },
        [&] {
            const float* const actions = on.fetch_actions();
            return std::vector<float>(actions, actions + count);
        },
    };
    return cuda::tune(ground, tuning_key_, repeats, progress);
}

}  // namespace lightwam::cuda
