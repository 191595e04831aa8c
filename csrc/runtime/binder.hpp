// SPDX-License-Identifier: Apache-2.0
// Binds the ops of a program to kernels and addresses: a list of steps that run without looking anything up.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cpu/cpu.hpp"
#include "engine/graph.hpp"
#include "runtime/instruction_rows.hpp"
#include "runtime/weights.hpp"

namespace lightwam::runtime {

// Where a program's values live.
struct Bases {
    std::byte* arena = nullptr;
    std::byte* instruction = nullptr;
    const float* context = nullptr;
    const std::int32_t* text_rows = nullptr;
    const float* state = nullptr;
    const float* latents = nullptr;
    const cpu::CameraImage* cameras = nullptr;
    std::size_t camera_count = 0;
};

// A kernel and its arguments.
class BoundKernel {
  public:
    virtual ~BoundKernel() = default;
    virtual void run(const cpu::Execution& execution) const noexcept = 0;
    virtual std::size_t scratch_bytes(const cpu::KernelTable& kernels, int threads) const noexcept = 0;
};

struct Step {
    Stage stage = Stage::backbone;
    std::unique_ptr<const BoundKernel> kernel;
    const engine::Op* op = nullptr;  // of the program that was bound
};

// The steps of a verified program. With weights not yet loaded it collects what the program needs of them.
std::vector<Step> bind_program(const engine::Graph& graph, const engine::Program& program, const Bases& bases,
                               Weights& weights, const RowsInUse& rows = {});

// The largest scratch that a step needs.
std::size_t scratch_bytes(const std::vector<Step>& steps, const cpu::KernelTable& kernels, int threads);

}  // namespace lightwam::runtime
