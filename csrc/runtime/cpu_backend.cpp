// SPDX-License-Identifier: Apache-2.0
// The CPU as a backend: every op of the graph bound to a kernel of the best instruction set.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <system_error>

#include "cpu/cpu.hpp"
#include "cpu/isa/kernel_table.hpp"
#include "runtime/backend.hpp"
#include "runtime/binder.hpp"
#include "runtime/block.hpp"
#include "runtime/cpus.hpp"
#include "runtime/half.hpp"
#include "runtime/instruction_cache.hpp"
#include "runtime/instruction_rows.hpp"
#include "runtime/weights.hpp"

namespace lightwam::runtime {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxThreads = 1024;

int choose_threads(int requested) {
    if (requested == 0) return std::min(available_cpus(), kMaxThreads);
    if (requested < 0 || requested > kMaxThreads)
        throw Error(ErrorKind::device,
                    "threads is " + std::to_string(requested) + "; expected 1 to 1024, or 0 for one per CPU");
    return requested;
}

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

const cpu::KernelTable* choose_kernels(const std::string& requested) {
    if (requested == "auto") return cpu::best_kernels();
    std::string known = "auto";
    for (const cpu::Level level : cpu::kLevels) {
        known += std::string(", ") + cpu::level_name(level);
        if (requested != cpu::level_name(level)) continue;
        if (const cpu::KernelTable* kernels = cpu::kernels_of(level)) return kernels;
        throw Error(ErrorKind::device, "instruction set '" + requested +
                                           "' does not run here; the best that does is '" +
                                           cpu::level_name(cpu::best_level()) + "'");
    }
    throw Error(ErrorKind::device, "instruction set '" + requested + "' is unknown; expected one of " + known);
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
    const std::string begin = std::string(cpu::level_name(kernels.level)) + " has no ";
    std::string text;
    if (multiplies(graph, engine::DType::i8) && !kernels.native_i8)
        text = begin + "8-bit dot products (AVX512_VNNI or AVX_VNNI): engine '" + graph.name +
               "' widens its int8 products to 16 or 32 bits; the actions are right, but it is no faster than in f32";
    if (multiplies(graph, engine::DType::bf16) && !kernels.native_bf16)
        text += (text.empty() ? "" : "; ") + begin + "bf16 instructions (AVX512_BF16): engine '" + graph.name +
                "' widens its bf16 products to f32; the actions are right, but an f32 export may be as fast";
    return text;
}

// How the cameras' pictures come onto the canvas: one resize plan a camera, made for the size seen last.
class ResizePlans {
  public:
    ResizePlans(const std::vector<CameraInfo>& cameras, int threads)
        : cameras_(cameras), threads_(threads), images_(cameras.size()), plans_(cameras.size()) {
        for (std::size_t i = 0; i < cameras.size(); ++i) {
            images_[i].rotate_180 = cameras[i].rotate_180;
            images_[i].top = static_cast<std::size_t>(cameras[i].top);
            images_[i].left = static_cast<std::size_t>(cameras[i].left);
            images_[i].plan = &plans_[i];
        }
    }

    // Points the canvas at checked images, one a camera in their order. Allocates only for a size not seen last.
    void accept(const ImageView* const* images) {
        for (std::size_t i = 0; i < cameras_.size(); ++i) {
            const ImageView& image = *images[i];
            const std::size_t height = static_cast<std::size_t>(image.height);
            const std::size_t width = static_cast<std::size_t>(image.width);
            if (!plans_[i].fits(height, width)) {
                plans_[i] = cpu::ResizePlan(height, width, static_cast<std::size_t>(cameras_[i].height),
                                            static_cast<std::size_t>(cameras_[i].width), threads_);
                built_.fetch_add(1, std::memory_order_relaxed);
            }
            images_[i].pixels = image.pixels;
            images_[i].row_stride = image.row_stride;
            images_[i].column_stride = image.column_stride;
            images_[i].channel_stride = image.channel_stride;
        }
    }

    const cpu::CameraImage* images() const { return images_.data(); }
    std::size_t count() const { return images_.size(); }
    std::uint64_t built() const { return built_.load(std::memory_order_relaxed); }

  private:
    const std::vector<CameraInfo>& cameras_;
    int threads_;
    std::vector<cpu::CameraImage> images_;
    std::vector<cpu::ResizePlan> plans_;
    std::atomic<std::uint64_t> built_{0};
};

class CpuBackend final : public Backend {
  public:
    CpuBackend(const engine::EngineFile& file, const PolicyOptions& options);

    void describe(PolicyInfo& info) const override;
    std::string device_info() const override;
    std::string products(const engine::Graph& graph) const override;
    const std::byte* text_constant(std::size_t tensor) override { return weights_->raw(tensor); }
    float* context() override { return context_; }
    bool recall_instruction(std::string_view text) override;
    void compute_instruction(std::string_view text, std::int32_t rows) override;
    const float* act(const ActInputs& inputs, Timings* timings) override;
    std::uint64_t resize_plans_built() const override { return resize_plans_->built(); }

  private:
    void load(const engine::EngineFile& file);
    std::size_t checked_scratch(const engine::EngineFile& file, const std::vector<Step>& steps) const;
    std::vector<Step> bind_act(const InstructionCache::Entry& entry);
    cpu::Execution execution() { return {kernels_, &*pool_, scratch_.data()}; }

    const engine::Graph graph_;  // without f16 and f8
    const PolicyOptions options_;
    const cpu::KernelTable* kernels_ = nullptr;
    std::optional<cpu::ThreadPool> pool_;
    std::optional<Weights> weights_;
    std::optional<ResizePlans> resize_plans_;
    Block arena_;
    Block scratch_;
    Block inputs_;
    float* state_ = nullptr;    // [P]
    float* latents_ = nullptr;  // [C, h, w]
    float* context_ = nullptr;  // [L, text_width]
    std::int32_t* text_rows_ = nullptr;
    const float* actions_ = nullptr;  // [H, A], in the arena
    Bases bases_;
    std::vector<Step> act_;
    std::optional<InstructionRows> instruction_rows_;
    InstructionCache cache_;
};

CpuBackend::CpuBackend(const engine::EngineFile& file, const PolicyOptions& options)
    : graph_(with_wide_values(file.graph())), options_(options), cache_(options.instruction_cache_capacity) {
    const int threads = choose_threads(options.threads);
    kernels_ = choose_kernels(options.instruction_set);
    try {
        pool_.emplace(threads);
    } catch (const std::system_error& error) {
        throw Error(ErrorKind::device, "threads is " + std::to_string(threads) + ", but the system starts no more (" +
                                           error.what() + "); request fewer");
    }
    process_budget().grow(available_cpus());
    const cpu::CoreBudget::Lease lease(process_budget(), *pool_);
    weights_.emplace(*kernels_);
    resize_plans_.emplace(graph_.policy.cameras, threads);
    load(file);
}

// Binds both programs once to learn what they need, allocates it, and binds act again to the loaded weights.
void CpuBackend::load(const engine::EngineFile& file) {
    const engine::PolicyDescription& policy = graph_.policy;
    const auto floats = [](std::int64_t count) { return (static_cast<std::size_t>(count) * 4 + 63) / 64 * 64; };
    const std::size_t state = floats(policy.state_width);
    const std::size_t latents = policy.starts_at_images ? 0 : floats(policy.latent_count());
    const std::size_t context = floats(policy.context_rows * policy.text_width);
    inputs_ = Block(state + latents + context + 64, "the inputs of engine '" + graph_.name + "'");
    state_ = reinterpret_cast<float*>(inputs_.data());
    latents_ = reinterpret_cast<float*>(inputs_.data() + state);
    context_ = reinterpret_cast<float*>(inputs_.data() + state + latents);
    text_rows_ = reinterpret_cast<std::int32_t*>(inputs_.data() + state + latents + context);
    arena_ = Block(static_cast<std::size_t>(std::max(graph_.act.arena_bytes, graph_.set_instruction.arena_bytes)),
                   "the arena of engine '" + graph_.name + "'");
    bases_ = {arena_.data(),         nullptr, context_, text_rows_, state_, latents_, resize_plans_->images(),
              resize_plans_->count()};

    std::size_t scratch = 0;
    for (const engine::Program* program : {&graph_.set_instruction, &graph_.act})
        scratch = std::max(scratch, checked_scratch(file, bind_program(graph_, *program, bases_, *weights_)));
    scratch_ = Block(scratch, "the scratch memory of engine '" + graph_.name + "'");
    for (const std::size_t tensor : engine::text_constants(graph_)) weights_->raw(tensor);
    weights_->load(file, *pool_);
    act_ = bind_program(graph_, graph_.act, bases_, *weights_);
    actions_ = reinterpret_cast<const float*>(arena_.data() + graph_.act.values[graph_.act.outputs[0].index].offset);
    instruction_rows_.emplace(graph_);
}

// What the steps need beside the arena. A small file must not reserve much memory: expected is a multiple of what the
// file holds and declares, and a share for each thread.
std::size_t CpuBackend::checked_scratch(const engine::EngineFile& file, const std::vector<Step>& steps) const {
    constexpr std::size_t kMultiple = 2;
    constexpr std::size_t kShare = std::size_t{16} << 20;
    std::size_t declared = arena_.bytes() + static_cast<std::size_t>(graph_.instruction_bytes);
    for (const engine::Tensor& tensor : graph_.tensors) declared += tensor.bytes;
    const std::size_t most = kMultiple * declared + kShare * static_cast<std::size_t>(pool_->threads());
    std::size_t largest = 0;
    for (const Step& step : steps) {
        const std::size_t bytes = step.kernel->scratch_bytes(*kernels_, pool_->threads());
        largest = std::max(largest, bytes);
        if (bytes <= most) continue;
        file.reporter()([&] {
            engine::fail("op '" + step.op->name + "' (" + engine::op_name(step.op->kind) + ") needs " +
                         std::to_string(bytes) + " bytes of scratch memory; expected at most " + std::to_string(most) +
                         " beside a file that holds and declares " + std::to_string(declared));
        });
    }
    return largest;
}

void CpuBackend::describe(PolicyInfo& info) const {
    info.device = "cpu";
    info.arena_bytes = arena_.bytes();
    info.weight_bytes = weights_->bytes();
    info.threads = pool_->threads();
    info.instruction_set = cpu::level_name(kernels_->level);
    const int cores = process_budget().cores();
    if (info.threads > cores)
        info.warning = "threads is " + std::to_string(info.threads) + ", but this process may use " +
                       std::to_string(cores) + (cores == 1 ? " CPU" : " CPUs") +
                       ", so no more run at a time; request " + std::to_string(cores);
    if (const std::string slow = slow_products(graph_, *kernels_); !slow.empty())
        info.warning += (info.warning.empty() ? "" : "; ") + slow;
}

std::string CpuBackend::device_info() const {
    const int threads = pool_->threads();
    return std::string("the CPU, ") + cpu::level_name(kernels_->level) +
           (options_.instruction_set == "auto" ? " kernels (the best that this CPU and build have), "
                                               : " kernels (as requested), ") +
           std::to_string(threads) + (threads == 1 ? " thread" : " threads") +
           (options_.threads == 0 ? " (one per available CPU)" : " (as requested)");
}

std::string CpuBackend::products(const engine::Graph& graph) const {
    std::string text = Backend::products(graph);
    if (graph.precision == engine::Precision::f16)
        text = "f32 products (its f16 weights and values widened to f32: a bf16 export takes half the memory)";
    else if (has_values_of(graph, engine::DType::f16))
        text += ", f16 values held as f32";
    if (has_values_of(graph, engine::DType::f8))
        text += ", fp8 numbers held as bf16 (right, but no faster than a bf16 export)";
    return text;
}

bool CpuBackend::recall_instruction(std::string_view text) {
    const InstructionCache::Entry* entry = cache_.find(text);
    if (entry == nullptr) return false;
    act_ = bind_act(*entry);
    return true;
}

void CpuBackend::compute_instruction(std::string_view text, std::int32_t rows) {
    *text_rows_ = rows;
    const std::int64_t all = graph_.policy.context_rows;
    const std::int64_t used = std::min<std::int64_t>(*text_rows_ + 1, all);
    InstructionCache::Entry entry{
        std::string(text),
        Block(static_cast<std::size_t>(graph_.instruction_bytes), "an instruction's cache block", Block::Pages::small),
        instruction_rows_->bytes(graph_, used)};
    Bases bases = bases_;
    bases.instruction = entry.block.data();
    const std::vector<Step> steps =
        bind_program(graph_, graph_.set_instruction, bases, *weights_, {&instruction_rows_->ops, used, all});
    // Fewer rows may be cut into larger blocks.
    if (const std::size_t bytes = scratch_bytes(steps, *kernels_, pool_->threads()); bytes > scratch_.bytes())
        scratch_ = Block(bytes, "the scratch memory of engine '" + graph_.name + "'");
    const cpu::CoreBudget::Lease lease(process_budget(), *pool_);
    const cpu::Execution run = execution();
    for (const Step& step : steps) step.kernel->run(run);
    // The block that act_ reads may leave the cache, so all that can fail comes before.
    std::vector<Step> act = bind_act(entry);
    cache_.insert(std::move(entry));
    act_.swap(act);
}

std::vector<Step> CpuBackend::bind_act(const InstructionCache::Entry& entry) {
    Bases bases = bases_;
    bases.instruction = entry.block.data();
    return bind_program(graph_, graph_.act, bases, *weights_);
}

const float* CpuBackend::act(const ActInputs& inputs, Timings* timings) {
    resize_plans_->accept(inputs.images);
    const engine::PolicyDescription& policy = graph_.policy;
    std::copy_n(inputs.state, policy.state_width, state_);
    if (inputs.latents != nullptr) std::copy_n(inputs.latents, policy.latent_count(), latents_);
    const cpu::CoreBudget::Lease lease(process_budget(), *pool_);
    const cpu::Execution run = execution();
    for (std::size_t at = 0; at < act_.size();) {
        const Stage stage = act_[at].stage;
        const Clock::time_point begin = Clock::now();
        for (; at < act_.size() && act_[at].stage == stage; ++at) act_[at].kernel->run(run);
        if (timings == nullptr) continue;
        timings->seconds[static_cast<int>(stage)] += seconds_since(begin);
        timings->present[static_cast<int>(stage)] = true;
    }
    return actions_;
}

}  // namespace

Tuning Backend::tune(const ActInputs&, int, const TuningProgress&) {
    throw Error(ErrorKind::device, "this policy runs on the CPU, which has no tactics; open it with device='cuda'");
}

std::unique_ptr<Backend> make_cpu_backend(const engine::EngineFile& file, const PolicyOptions& options) {
    return std::make_unique<CpuBackend>(file, options);
}

}  // namespace lightwam::runtime
