// SPDX-License-Identifier: Apache-2.0
// A GPU as a backend: the engine's launch plan on the driver, and which instruction is in which of its slots.
#include <optional>

#include "cuda/executor.hpp"
#include "runtime/backend.hpp"

namespace lightwam::runtime {
namespace {

// An instruction whose values are on the GPU.
struct Slot {
    bool filled = false;
    std::string text;
    std::uint64_t used = 0;  // when last
};

class CudaBackend final : public Backend {
  public:
    CudaBackend(const engine::EngineFile& file, const PolicyOptions& options);

    void describe(PolicyInfo& info) const override;
    std::string device_info() const override { return device_info_; }
    const std::byte* text_constant(std::size_t tensor) override { return executor().text_constant(tensor); }
    float* context() override { return executor().context(); }
    bool recall_instruction(std::string_view text) override;
    void compute_instruction(std::string_view text, std::int32_t rows) override;
    const float* act(const ActInputs& inputs, Timings* timings) override;
    const float* act_by_stage(const ActInputs& inputs, Timings& timings) override;
    Tuning tune(const ActInputs& inputs, int repeats, const TuningProgress& progress) override;

  private:
    cuda::Executor& executor();
    // Runs `work`; after an error that no later call survives everything is given back.
    template <typename Work>
    auto guarded(Work&& work);

    std::optional<cuda::Executor> executor_;
    std::string device_info_;
    std::string lost_;
    std::vector<Slot> slots_;
    std::size_t current_ = 0;
    std::uint64_t clock_ = 0;
};

const engine::EngineFile& with_plan(const engine::EngineFile& file) {
    if (file.launch_plan() == nullptr)
        throw Error(ErrorKind::device, "engine '" + file.graph().name +
                                           "' has no machine code for a GPU; make it with 'lightwam compile', or pass "
                                           "device='cpu'");
    return file;
}

CudaBackend::CudaBackend(const engine::EngineFile& file, const PolicyOptions& options)
    : slots_(cuda::instruction_slots(with_plan(file).graph().instruction_bytes, options.instruction_cache_capacity)) {
    executor_.emplace(file, slots_.size());
    const cuda::Gpu& gpu = executor_->gpu();
    device_info_ = "GPU '" + gpu.name + "', sm_" + std::to_string(gpu.arch) + " kernels as one CUDA graph a chunk, " +
                   executor_->tactics().why;
}

void CudaBackend::describe(PolicyInfo& info) const {
    const cuda::DeviceMemory& memory = executor_->memory();
    info.device = "cuda";
    info.arena_bytes = memory.arena;
    info.weight_bytes = memory.weights;
    info.warning = executor_->tactics().warning;
    info.instruction_set = "sm_" + std::to_string(executor_->gpu().arch);
}

cuda::Executor& CudaBackend::executor() {
    if (!executor_) throw Error(ErrorKind::device, lost_);
    return *executor_;
}

template <typename Work>
auto CudaBackend::guarded(Work&& work) {
    try {
        return work(executor());
    } catch (const cuda::DriverError& error) {
        if (!cuda::loses_device(error.result())) throw;
        lost_ = std::string("the GPU was lost: ") + error.what() + "; make a new policy";
        executor_.reset();
        throw Error(ErrorKind::device, lost_);
    }
}

bool CudaBackend::recall_instruction(std::string_view text) {
    executor();
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        if (!slots_[i].filled || slots_[i].text != text) continue;
        slots_[i].used = ++clock_;
        current_ = i;
        return true;
    }
    return false;
}

// Into the slot that was not used for longest, but never into the one in force.
void CudaBackend::compute_instruction(std::string_view text, std::int32_t rows) {
    std::size_t chosen = slots_[current_].filled && current_ == 0 ? 1 : 0;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        const bool in_force = slots_[current_].filled && i == current_;
        if (!in_force && slots_[i].used < slots_[chosen].used) chosen = i;
    }
    Slot& slot = slots_[chosen];
    slot = Slot{};
    std::string name(text);
    guarded([&](cuda::Executor& run) { run.set_instruction(chosen, rows); });
    slot = {true, std::move(name), ++clock_};
    current_ = chosen;
}

const float* CudaBackend::act(const ActInputs& inputs, Timings*) {
    return guarded([&](cuda::Executor& run) { return run.act(current_, inputs); });
}

const float* CudaBackend::act_by_stage(const ActInputs& inputs, Timings& timings) {
    return guarded([&](cuda::Executor& run) { return run.act_by_stage(current_, inputs, timings); });
}

Tuning CudaBackend::tune(const ActInputs& inputs, int repeats, const TuningProgress& progress) {
    const std::size_t spare = (current_ + 1) % slots_.size();
    slots_[spare] = Slot{};
    return guarded([&](cuda::Executor& run) { return run.tune(current_, spare, inputs, repeats, progress); });
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const engine::EngineFile& file, const PolicyOptions& options) {
    return std::make_unique<CudaBackend>(file, options);
}

}  // namespace lightwam::runtime
