// SPDX-License-Identifier: Apache-2.0
// The kernels of a plan, loaded onto a GPU.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cuda/cublaslt.hpp"
#include "engine/engine_file.hpp"

namespace lightwam::cuda {

// Checks every tactic of the GPU's target against its cubin module: entry, arguments, block, architecture, and against
// the limits of the GPU. Fails (error_reporter.hpp); throws Error (device) when the GPU takes less than the tactic
// needs.
void check_cubins(const engine::LaunchPlan& plan, const Gpu& gpu, std::span<const std::byte> code);

// How many tactics a task has here: the plan's for the GPU's target, and after them the library's, where there is one
// that computes it.
std::size_t tactic_count(const engine::PlanTask& task, const Gpu& gpu, const CublasLt* library);

// By task, the tactic that runs: an index into the plan's tactics for the GPU's target, of which 0 is the default, or
// their number for the library's (cublaslt.hpp).
using TacticChoice = std::vector<std::size_t>;

// One tactic of every task.
class Modules {
  public:
    // `choice`: by task, an index below tactic_count. `library`: null where none is chosen. It and the plan must
    // outlive this.
    Modules(const Driver& driver, const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> code,
            const TacticChoice& choice, const CublasLt* library);
    ~Modules();
    Modules(const Modules&) = delete;
    Modules& operator=(const Modules&) = delete;

    const Call& call(std::size_t task) const { return *calls_[task]; }

  private:
    explicit Modules(const Driver& driver) : driver_(driver) {}

    const Driver& driver_;
    std::vector<ModuleHandle> modules_;
    std::vector<std::unique_ptr<Call>> calls_;  // by task
};

}  // namespace lightwam::cuda
