// SPDX-License-Identifier: Apache-2.0
// The kernels of a plan, loaded onto a GPU.
#pragma once

#include <span>
#include <vector>

#include "cuda/device.hpp"
#include "engine/engine_file.hpp"

namespace lightwam::cuda {

// After the arguments a kernel takes two addresses of scratch memory, which ours do not use.
inline constexpr std::size_t kScratchParameters = 2;

// Holds every tactic of the GPU's target against its cubin: entry, arguments, block, architecture, and against the
// limits of the GPU. Throws Error (engine), or (device) when the GPU takes less than the tactic needs.
void check_images(const engine::LaunchPlan& plan, const Gpu& gpu, std::span<const std::byte> image,
                  const engine::Refusal& refuse);

// The default tactic of every task.
class Modules {
  public:
    Modules(const Driver& driver, const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> image);
    ~Modules();
    Modules(const Modules&) = delete;
    Modules& operator=(const Modules&) = delete;

    Function function(std::size_t task) const { return functions_[task]; }

  private:
    void load(const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> image);

    const Driver& driver_;
    std::vector<ModuleHandle> modules_;
    std::vector<Function> functions_;  // by task
};

}  // namespace lightwam::cuda
