// SPDX-License-Identifier: Apache-2.0
// A launch plan on a GPU: weights uploaded, memory laid out, set_instruction on a plain stream, act as one CUDA graph.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "cuda/graph.hpp"
#include "cuda/modules.hpp"
#include "cuda/tuning_file.hpp"
#include "cuda/upload.hpp"

namespace lightwam::cuda {

// Sizes of what is on the GPU, bytes.
struct DeviceMemory {
    std::size_t weights = 0;
    std::size_t arena = 0;         // of the larger program
    std::size_t instructions = 0;  // all slots
    std::size_t staged = 0;        // inputs and actions
    std::size_t total() const { return weights + arena + instructions + staged; }
};

using engine::ActInputs;

class Executor {
  public:
    // Verifies the machine code for this GPU, looks whether the memory suffices, then allocates, uploads the weights
    // and reads and checks the rest of the file. An instruction's values stay in one of `slots` places (2 to 32).
    // Throws Error (engine, device).
    Executor(const engine::EngineFile& file, std::size_t slots);
    ~Executor();

    const Gpu& gpu() const { return gpu_; }
    const DeviceMemory& memory() const;
    const ChosenTactics& tactics() const { return tactics_; }
    // One of engine::text_constants, which stay on the CPU.
    const std::byte* text_constant(std::size_t tensor) const;

    // Where the rows of an instruction [L, text_width] go before set_instruction.
    float* context();
    // Computes the values of an instruction into a slot.
    void set_instruction(std::size_t slot, std::int32_t text_rows);

    // Computes a chunk with the instruction of a slot; the actions [H, A] stay until the next call. The first call of a
    // slot records the graph, and so does a camera's larger frame.
    const float* act(std::size_t slot, const ActInputs& inputs);
    // The same from a graph that reads the clock between stages; their times into `timings`.
    const float* act_by_stage(std::size_t slot, const ActInputs& inputs, Timings& timings);

    // Times all tactics (tuner.hpp) with the instruction of a slot; the values in the slot `spare` are lost.
    Tuning tune(std::size_t slot, std::size_t spare, const ActInputs& inputs, int repeats,
                const TuningProgress& progress);

  private:
    struct Loaded;  // everything that lives in the context

    const Driver& driver_;
    Gpu gpu_;
    std::optional<PrimaryContext> context_;
    TuningKey tuning_key_;
    ChosenTactics tactics_;
    std::unique_ptr<Loaded> loaded_;
};

// How many instructions fit into the memory set aside for them: 2 (the one in force and the next) to 32.
std::size_t instruction_slots(std::uint64_t instruction_bytes, std::size_t capacity);

}  // namespace lightwam::cuda
