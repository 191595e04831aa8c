// SPDX-License-Identifier: Apache-2.0
#include "lightwam/policy.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>

#include "cpu/cpu.hpp"
#include "engine/engine_file.hpp"
#include "engine/error.hpp"
#include "runtime/binder.hpp"
#include "runtime/block.hpp"
#include "runtime/cameras.hpp"
#include "runtime/instruction_cache.hpp"
#include "runtime/instruction_rows.hpp"
#include "runtime/processors.hpp"
#include "runtime/text.hpp"
#include "runtime/weights.hpp"

namespace lightwam {
namespace {

using runtime::Block;
using runtime::Step;
using Clock = std::chrono::steady_clock;

constexpr int kMaxThreads = 1024;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

int choose_threads(int asked) {
    if (asked == 0) return std::min(runtime::available_processors(), kMaxThreads);
    if (asked < 0 || asked > kMaxThreads)
        throw Error(ErrorKind::device,
                    "threads is " + std::to_string(asked) + "; expected 1 to 1024, or 0 for one per processor");
    return asked;
}

void check_device(const std::string& device) {
    if (device == "cpu" || device == "auto") return;
    if (device == "cuda")
        throw Error(ErrorKind::device, "device 'cuda' is not in this build; use device='cpu' or 'auto'");
    throw Error(ErrorKind::device, "device '" + device + "' is unknown; expected 'cpu' or 'auto'");
}

void check_precision(const std::string& asked, const engine::Graph& graph) {
    const std::string own = engine::precision_name(graph.precision);
    if (asked == "auto" || asked == own) return;
    if (asked != "f32" && asked != "bf16" && asked != "int8")
        throw Error(ErrorKind::precision,
                    "precision '" + asked + "' is unknown; expected 'auto', 'f32', 'bf16' or 'int8'");
    throw Error(
        ErrorKind::precision,
        "precision '" + asked + "' was asked for, but engine '" + graph.name + "' computes in " + own +
            (asked == "int8" ? "; make one with 'lightwam quantize'" : "; export it again with --precision " + asked) +
            ", or pass precision='auto'");
}

const cpu::KernelTable* choose_kernels(const std::string& asked) {
    if (asked == "auto") return cpu::best_kernels();
    std::string known = "auto";
    for (const cpu::Level level : cpu::kLevels) {
        known += std::string(", ") + cpu::level_name(level);
        if (asked != cpu::level_name(level)) continue;
        if (const cpu::KernelTable* kernels = cpu::kernels_of(level)) return kernels;
        throw Error(ErrorKind::device, "instruction set '" + asked + "' does not run here; the best that does is '" +
                                           cpu::level_name(cpu::best_level()) + "'");
    }
    throw Error(ErrorKind::device, "instruction set '" + asked + "' is unknown; expected one of " + known);
}

// True when a product of `act` multiplies numbers of this type.
bool multiplies(const engine::Graph& graph, engine::DType dtype) {
    return std::any_of(graph.act.ops.begin(), graph.act.ops.end(), [&](const engine::Op& op) {
        const std::size_t x = engine::find_role(op.inputs, "x");
        std::size_t weight = engine::find_role(op.constants, "weight");
        if (weight == engine::npos) weight = engine::find_role(op.constants, "scores");
        return x != engine::npos && weight != engine::npos && graph.act.values[x].dtype == dtype &&
               graph.tensors[weight].dtype == dtype;
    });
}

// What the engine's products lack on these kernels; empty when nothing.
std::string slow_products(const engine::Graph& graph, const cpu::KernelTable& kernels) {
    const std::string begin = std::string(cpu::level_name(cpu::level_of(kernels))) + " has no ";
    std::string text;
    if (multiplies(graph, engine::DType::i8) && !cpu::has_native_i8(kernels))
        text = begin + "8-bit dot products (AVX512_VNNI or AVX_VNNI): engine '" + graph.name +
               "' widens its int8 products to 16 or 32 bits; the actions are right, but it is no faster than in f32";
    if (multiplies(graph, engine::DType::bf16) && !cpu::has_native_bf16(kernels))
        text += (text.empty() ? "" : "; ") + begin + "bf16 instructions (AVX512_BF16): engine '" + graph.name +
                "' widens its bf16 products to f32; the actions are right, but an f32 export may be as fast";
    return text;
}

// First element that is NaN or infinite; `count` when all are finite.
std::size_t first_non_finite(const float* values, std::size_t count) {
    return static_cast<std::size_t>(
        std::find_if(values, values + count, [](float value) { return !std::isfinite(value); }) - values);
}

}  // namespace

struct Policy::Implementation {
    Implementation(const std::string& path, const PolicyOptions& options);

    void load(const engine::EngineFile& file);
    void describe(const PolicyOptions& options);
    void collect_text_constants();
    void set_instruction(std::string_view text);
    std::vector<Step> bind_act(const runtime::InstructionCache::Entry& entry);
    void infer(const Observation& observation, float* actions, std::size_t count, Timings* timings);
    void accept(const Observation& observation);
    void run_timed(Timings* timings);

    const engine::Graph& graph() const { return graph_; }
    cpu::Execution execution() { return {kernels_, &*pool_, scratch_.data()}; }

    engine::Graph graph_;
    PolicyInfo info_;
    std::mutex mutex_;
    const cpu::KernelTable* kernels_ = nullptr;
    std::optional<cpu::ThreadPool> pool_;
    std::optional<runtime::Weights> weights_;
    std::optional<runtime::Cameras> cameras_;
    Block arena_;
    Block scratch_;
    Block inputs_;
    float* state_ = nullptr;    // [P]
    float* latents_ = nullptr;  // [C, h, w]
    float* context_ = nullptr;  // [L, text_width]
    std::int32_t* text_rows_ = nullptr;
    const float* actions_ = nullptr;  // [H, A], in the arena
    bool needs_instruction_ = false;
    runtime::Bases bases_;
    std::vector<Step> act_;
    std::optional<runtime::InstructionRows> instruction_rows_;
    std::optional<runtime::InstructionCache> cache_;
    std::string instruction_;
    std::uint64_t instruction_computations_ = 0;
};

Policy::Implementation::Implementation(const std::string& path, const PolicyOptions& options) {
    check_device(options.device);
    const int threads = choose_threads(options.threads);
    const engine::EngineFile file(path);
    graph_ = file.graph();
    check_precision(options.precision, graph_);
    kernels_ = choose_kernels(options.instruction_set);
    try {
        pool_.emplace(threads);
    } catch (const std::system_error& error) {
        throw Error(ErrorKind::device, "threads is " + std::to_string(threads) + ", but the system starts no more (" +
                                           error.what() + "); ask for fewer");
    }
    runtime::process_budget().grow(runtime::available_processors());
    const cpu::CoreBudget::Lease lease(runtime::process_budget(), *pool_);
    weights_.emplace(*kernels_);
    cameras_.emplace(graph_.policy.cameras, threads);
    cache_.emplace(options.instruction_cache_capacity);
    info_.metadata_json = file.document();
    load(file);
    describe(options);
}

// Binds both programs once to learn what they need, allocates it, and binds act again to the loaded weights.
void Policy::Implementation::load(const engine::EngineFile& file) {
    const engine::PolicyDescription& policy = graph_.policy;
    const auto floats = [](std::int64_t count) { return (static_cast<std::size_t>(count) * 4 + 63) / 64 * 64; };
    const std::size_t state = floats(policy.state_width);
    const std::size_t latents =
        policy.starts_at_images ? 0 : floats(policy.latent_shape[0] * policy.latent_shape[1] * policy.latent_shape[2]);
    const std::size_t context = floats(policy.context_rows * policy.text_width);
    inputs_ = Block(state + latents + context + 64, "the inputs of engine '" + graph_.name + "'");
    state_ = reinterpret_cast<float*>(inputs_.data());
    latents_ = reinterpret_cast<float*>(inputs_.data() + state);
    context_ = reinterpret_cast<float*>(inputs_.data() + state + latents);
    text_rows_ = reinterpret_cast<std::int32_t*>(inputs_.data() + state + latents + context);
    arena_ = Block(static_cast<std::size_t>(std::max(graph_.act.arena_bytes, graph_.set_instruction.arena_bytes)),
                   "the arena of engine '" + graph_.name + "'");
    bases_ = {arena_.data(), nullptr, context_, text_rows_, state_, latents_, cameras_->images(), cameras_->count()};

    std::size_t scratch = 0;
    for (const engine::Program* program : {&graph_.set_instruction, &graph_.act})
        scratch = std::max(scratch, runtime::scratch_bytes(runtime::bind_program(graph_, *program, bases_, *weights_),
                                                           *kernels_, pool_->threads()));
    scratch_ = Block(scratch, "the scratch memory of engine '" + graph_.name + "'");
    collect_text_constants();
    weights_->load(file, *pool_);
    act_ = runtime::bind_program(graph_, graph_.act, bases_, *weights_);
    actions_ = reinterpret_cast<const float*>(arena_.data() + graph_.act.values[graph_.act.outputs[0].index].offset);
    instruction_rows_.emplace(graph_);
    needs_instruction_ =
        std::any_of(graph_.act.values.begin(), graph_.act.values.end(),
                    [](const engine::Value& value) { return value.storage == engine::Storage::instruction; });
}

void Policy::Implementation::collect_text_constants() {
    for (const engine::KnownInstruction& known : graph_.policy.instructions) weights_->raw(known.context);
    if (!graph_.policy.text_encoder.present) return;
    weights_->raw(graph_.policy.text_encoder.embedding);
    weights_->raw(graph_.policy.text_encoder.position);
}

void Policy::Implementation::describe(const PolicyOptions& options) {
    const engine::PolicyDescription& policy = graph_.policy;
    info_.name = graph_.name;
    info_.precision = engine::precision_name(graph_.precision);
    info_.starts_at_images = policy.starts_at_images;
    info_.cameras = policy.cameras;
    std::copy(std::begin(policy.latent_shape), std::end(policy.latent_shape), std::begin(info_.latent_shape));
    info_.state_width = policy.state_width;
    info_.action_width = policy.action_width;
    info_.horizon = policy.horizon;
    info_.replan = policy.replan;
    info_.has_text_encoder = policy.text_encoder.present;
    for (const engine::KnownInstruction& known : policy.instructions) info_.instructions.push_back(known.text);
    info_.arena_bytes = arena_.bytes();
    info_.weight_bytes = weights_->bytes();
    info_.threads = pool_->threads();
    info_.instruction_set = cpu::level_name(cpu::level_of(*kernels_));
    info_.run_path = "engine '" + info_.name + "' runs on the CPU" +
                     (options.device == "auto" ? " (device 'auto': this build has no other)" : "") + ", " +
                     info_.instruction_set +
                     (options.instruction_set == "auto" ? " kernels (the best that this processor and build have), "
                                                        : " kernels (as asked), ") +
                     std::to_string(info_.threads) + (info_.threads == 1 ? " thread" : " threads") +
                     (options.threads == 0 ? " (one per available processor)" : " (as asked)") + ", " +
                     info_.precision + " products (as exported)";
    const int cores = runtime::process_budget().cores();
    if (info_.threads > cores)
        info_.warning = "threads is " + std::to_string(info_.threads) + ", but this process may use " +
                        std::to_string(cores) + (cores == 1 ? " processor" : " processors") +
                        ", so no more run at a time; ask for " + std::to_string(cores);
    if (const std::string slow = slow_products(graph_, *kernels_); !slow.empty())
        info_.warning += (info_.warning.empty() ? "" : "; ") + slow;
    info_.run_path = engine::one_line(info_.run_path);
    info_.warning = engine::one_line(info_.warning);
}

void Policy::Implementation::set_instruction(std::string_view text) {
    if (runtime::InstructionCache::Entry* entry = cache_->find(text)) {
        std::vector<Step> act = bind_act(*entry);
        instruction_ = entry->text;
        act_.swap(act);
        return;
    }
    *text_rows_ = runtime::encode_instruction(graph_, *weights_, text, context_);
    const std::int64_t all = graph_.policy.context_rows;
    const std::int64_t used = std::min<std::int64_t>(*text_rows_ + 1, all);
    runtime::InstructionCache::Entry entry{
        std::string(text),
        Block(static_cast<std::size_t>(graph_.instruction_bytes), "an instruction's cache block", Block::Pages::small),
        instruction_rows_->bytes(graph_, used)};
    runtime::Bases bases = bases_;
    bases.instruction = entry.block.data();
    const std::vector<Step> steps =
        runtime::bind_program(graph_, graph_.set_instruction, bases, *weights_, {&instruction_rows_->ops, used, all});
    // Fewer rows may be cut into larger blocks.
    if (const std::size_t bytes = runtime::scratch_bytes(steps, *kernels_, pool_->threads()); bytes > scratch_.bytes())
        scratch_ = Block(bytes, "the scratch memory of engine '" + graph_.name + "'");
    const cpu::CoreBudget::Lease lease(runtime::process_budget(), *pool_);
    const cpu::Execution run = execution();
    for (const Step& step : steps) runtime::run_step(run, step);
    ++instruction_computations_;
    // The block that act_ reads may leave the cache, so all that can fail comes before.
    std::vector<Step> act = bind_act(entry);
    std::string instruction = entry.text;
    cache_->insert(std::move(entry));
    act_.swap(act);
    instruction_.swap(instruction);
}

std::vector<Step> Policy::Implementation::bind_act(const runtime::InstructionCache::Entry& entry) {
    runtime::Bases bases = bases_;
    bases.instruction = entry.block.data();
    return runtime::bind_program(graph_, graph_.act, bases, *weights_);
}

// Checks everything before anything of the last call is overwritten.
void Policy::Implementation::accept(const Observation& observation) {
    const auto refuse = [](const std::string& why) { throw Error(ErrorKind::observation, why); };
    const std::size_t width = static_cast<std::size_t>(info_.state_width);
    if (observation.state == nullptr) refuse("the state is missing; expected " + std::to_string(width) + " numbers");
    if (observation.state_width != width)
        refuse("the state has " + std::to_string(observation.state_width) + " numbers; expected " +
               std::to_string(width));
    if (const std::size_t at = first_non_finite(observation.state, width); at < width)
        refuse("state[" + std::to_string(at) + "] is " + std::to_string(observation.state[at]) +
               "; expected a finite number");
    if (info_.starts_at_images) {
        if (observation.latents != nullptr) refuse("latents were given, but this engine starts at images");
        cameras_->accept(observation);
    } else {
        const std::size_t count =
            static_cast<std::size_t>(info_.latent_shape[0] * info_.latent_shape[1] * info_.latent_shape[2]);
        if (observation.image_count > 0) refuse("images were given, but this engine starts at latents");
        if (observation.latents == nullptr || observation.latent_count != count)
            refuse("the latents have " + std::to_string(observation.latents == nullptr ? 0 : observation.latent_count) +
                   " numbers; expected " + std::to_string(count));
        if (const std::size_t at = first_non_finite(observation.latents, count); at < count)
            refuse("latents[" + std::to_string(at) + "] is " + std::to_string(observation.latents[at]) +
                   "; expected a finite number");
        std::memcpy(latents_, observation.latents, count * sizeof(float));
    }
    std::memcpy(state_, observation.state, width * sizeof(float));
}

void Policy::Implementation::run_timed(Timings* timings) {
    const cpu::CoreBudget::Lease lease(runtime::process_budget(), *pool_);
    const cpu::Execution run = execution();
    for (std::size_t at = 0; at < act_.size();) {
        const Stage stage = act_[at].stage;
        const Clock::time_point begin = Clock::now();
        for (; at < act_.size() && act_[at].stage == stage; ++at) runtime::run_step(run, act_[at]);
        if (timings == nullptr) continue;
        timings->seconds[static_cast<int>(stage)] += seconds_since(begin);
        timings->present[static_cast<int>(stage)] = true;
    }
}

void Policy::Implementation::infer(const Observation& observation, float* actions, std::size_t count,
                                   Timings* timings) {
    const Clock::time_point begin = Clock::now();
    const std::size_t expected = static_cast<std::size_t>(info_.horizon * info_.action_width);
    if (actions == nullptr || count != expected)
        throw Error(ErrorKind::internal, "room for " + std::to_string(actions == nullptr ? 0 : count) +
                                             " actions was given; expected " + std::to_string(expected));
    if (needs_instruction_ && instruction_.empty())
        throw Error(ErrorKind::instruction, "no instruction is set; call set_instruction first (engine '" + info_.name +
                                                "' knows " + runtime::known_instructions(graph_) +
                                                (info_.has_text_encoder ? ", and takes any other text)" : ")"));
    accept(observation);
    if (timings != nullptr) *timings = Timings{};
    run_timed(timings);
    if (const std::size_t at = first_non_finite(actions_, expected); at < expected)
        throw Error(ErrorKind::engine, "engine '" + info_.name + "' computed the action [" +
                                           std::to_string(at / static_cast<std::size_t>(info_.action_width)) + ", " +
                                           std::to_string(at % static_cast<std::size_t>(info_.action_width)) + "] as " +
                                           std::to_string(actions_[at]) +
                                           ", so no action was returned; check the state's units or export in f32");
    std::memcpy(actions, actions_, expected * sizeof(float));
    if (timings != nullptr) timings->total = seconds_since(begin);
}

Policy::Policy(const std::string& path, const PolicyOptions& options) {
    try {
        implementation_ = std::make_unique<Implementation>(path, options);
    } catch (const std::bad_alloc&) {
        throw Error(ErrorKind::engine, "engine file '" + path + "': not enough memory to load it; free some");
    }
}
Policy::~Policy() = default;
Policy::Policy(Policy&&) noexcept = default;
Policy& Policy::operator=(Policy&&) noexcept = default;

void Policy::set_instruction(std::string_view text) {
    const std::lock_guard<std::mutex> lock(implementation_->mutex_);
    implementation_->set_instruction(text);
}

void Policy::infer(const Observation& observation, float* actions, std::size_t action_count, Timings* timings) {
    const std::lock_guard<std::mutex> lock(implementation_->mutex_);
    implementation_->infer(observation, actions, action_count, timings);
}

const PolicyInfo& Policy::info() const noexcept { return implementation_->info_; }
std::string Policy::instruction() const {
    const std::lock_guard<std::mutex> lock(implementation_->mutex_);
    return implementation_->instruction_;
}
std::uint64_t Policy::instruction_computations() const noexcept { return implementation_->instruction_computations_; }
std::uint64_t Policy::resize_plans_built() const noexcept { return implementation_->cameras_->plans_built(); }

}  // namespace lightwam
