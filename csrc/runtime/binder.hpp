// SPDX-License-Identifier: Apache-2.0
// Binds the ops of a program to kernels and addresses: a list of steps that run without looking anything up.
#pragma once

#include <cstddef>
#include <variant>
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

// concat with its own list of inputs.
struct ConcatStep {
    std::vector<cpu::ConcatInput> inputs;
    cpu::ConcatArgs args;
};

struct Step {
    Stage stage = Stage::backbone;
    std::variant<cpu::PreprocessImagesArgs, cpu::NchwToNhwcArgs, cpu::Conv2dArgs, cpu::LinearArgs,
                 cpu::QuantizeRowsArgs, cpu::QuantizeRowsF8Args, cpu::GroupedLinearArgs, cpu::LayerNormArgs,
                 cpu::RmsNormArgs, cpu::RmsNormRopeArgs, cpu::SelfAttentionArgs, cpu::CrossAttentionArgs,
                 cpu::CrossAttentionFoldedArgs, cpu::TextKeyBiasArgs, cpu::LearnedQueryPoolArgs, cpu::MeanPoolArgs,
                 cpu::AddArgs, ConcatStep, cpu::ScaleShiftClampArgs, cpu::GripperRuleArgs, cpu::CastArgs>
        args;
};

// The steps of a verified program. With weights not yet loaded it collects what the program needs of them.
std::vector<Step> bind_program(const engine::Graph& graph, const engine::Program& program, const Bases& bases,
                               Weights& weights, const RowsInUse& rows = {});

// The largest scratch that a step needs.
std::size_t scratch_bytes(const std::vector<Step>& steps, const cpu::KernelTable& kernels, int threads);

void run_step(const cpu::Execution& execution, const Step& step) noexcept;

}  // namespace lightwam::runtime
