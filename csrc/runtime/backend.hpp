// SPDX-License-Identifier: Apache-2.0
// What computes a policy: the CPU or a GPU. The policy checks what goes in and what comes out; a backend holds
// the weights, the memory, and what it keeps of the instructions set so far.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine_file.hpp"
#include "lightwam/policy.hpp"
#include "runtime/text.hpp"

namespace lightwam::runtime {

using engine::ActInputs;

class Backend {
  public:
    virtual ~Backend() = default;

    // Fills in what is this backend's own: threads, instruction set, bytes, warning.
    virtual void describe(PolicyInfo& info) const = 0;
    // "the CPU, avx2 kernels (...), 2 threads (...)": for the execution info.
    virtual std::string device_info() const = 0;
    // "bf16 products (as exported)": likewise.
    virtual std::string products(const engine::Graph& graph) const {
        return std::string(engine::precision_name(graph.precision)) + " products (as exported)";
    }

    // A constant of text_constants() as it stands in the file.
    virtual const std::byte* text_constant(std::size_t tensor) = 0;
    // Where the rows [L, text_width] of an instruction go before compute_instruction.
    virtual float* context() = 0;

    // Both put an instruction in force, or throw and leave the one before. The first does so if its values are kept,
    // else returns false; the second computes them from the first `rows` rows of context().
    virtual bool recall_instruction(std::string_view text) = 0;
    virtual void compute_instruction(std::string_view text, std::int32_t rows) = 0;

    // Computes a chunk [H, A], which stays until the next call. Adds the times of stages to `timings` unless it is
    // null or the backend does not know them.
    virtual const float* act(const ActInputs& inputs, Timings* timings) = 0;

    // The same, with the times of stages in any case.
    virtual const float* act_by_stage(const ActInputs& inputs, Timings& timings) { return act(inputs, &timings); }

    // As Policy::tune; throws Error (device) on a CPU.
    virtual Tuning tune(const ActInputs& inputs, int repeats, const TuningProgress& progress);

    virtual std::uint64_t resize_plans_built() const { return 0; }
};

std::unique_ptr<Backend> make_cpu_backend(const engine::EngineFile& file, const PolicyOptions& options);
// Throws Error (device) when there is no driver, no GPU that the engine has machine code for, or too little memory.
std::unique_ptr<Backend> make_cuda_backend(const engine::EngineFile& file, const PolicyOptions& options);

}  // namespace lightwam::runtime
