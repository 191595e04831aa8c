// SPDX-License-Identifier: Apache-2.0
// The kernels of a plan, loaded onto a GPU.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "cuda/cublaslt.hpp"
#include "cuda/device.hpp"
#include "cuda/tactic.hpp"
#include "engine/engine_file.hpp"

namespace lightwam::cuda {

// After the arguments a kernel takes two addresses of scratch memory, which ours do not use.
inline constexpr std::size_t kScratchParameters = 2;

// Checks every tactic of the GPU's target against its cubin module: entry, arguments, block, architecture, and against
// the limits of the GPU. Fails (error_reporter.hpp); throws Error (device) when the GPU takes less than the tactic
// needs.
void check_cubins(const engine::LaunchPlan& plan, const Gpu& gpu, std::span<const std::byte> code);

// How many tactics a task has here: the plan's for the GPU's target, and after them the library's, where there is one
// that computes it.
std::size_t tactic_count(const engine::PlanTask& task, const Gpu& gpu, const CublasLt* library);

// A kernel that is loaded, launched as its tactic says.
class KernelCall final : public Call {
  public:
    KernelCall(const Driver& driver, Function function, const engine::Tactic& tactic);
    Result enqueue(Stream stream, std::span<const DeviceAddress> addresses) const override;

  private:
    const Driver& driver_;
    Function function_;
    std::array<std::uint32_t, 3> grid_;
    std::uint32_t threads_;
    std::uint32_t shared_;
};

// One tactic of every task.
class Modules {
  public:
    // `choice`: by task, an index below tactic_count. `library`: null where none is chosen; it must outlive this.
    Modules(const Driver& driver, const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> code,
            const TacticChoice& choice, const CublasLt* library);
    ~Modules();
    Modules(const Modules&) = delete;
    Modules& operator=(const Modules&) = delete;

    const Call& call(std::size_t task) const { return *calls_[task]; }

  private:
    void load(const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> code,
              const TacticChoice& choice, const CublasLt* library);

    const Driver& driver_;
    std::vector<ModuleHandle> modules_;
    std::vector<std::unique_ptr<Call>> calls_;  // by task
};

}  // namespace lightwam::cuda
