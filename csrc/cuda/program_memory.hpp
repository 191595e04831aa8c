// SPDX-License-Identifier: Apache-2.0
// Where the inputs and outputs of a program lie, and the launches of the program with all addresses filled in.
#pragma once

#include <string_view>
#include <vector>

#include "cuda/modules.hpp"

namespace lightwam::cuda {

// Arena buffers, inputs and slots start at multiples of this.
inline constexpr std::size_t kBlockAlignment = engine::kArenaAlignment;
inline std::size_t aligned(std::uint64_t bytes) {
    return (static_cast<std::size_t>(bytes) + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

// Bytes of a program's inputs and outputs but for frames.
std::size_t bound_bytes(const engine::PlanProgram& program);

// Where the rest of a program's bytes lie.
struct Places {
    DeviceAddress weights = 0;
    DeviceAddress arena = 0;
    DeviceAddress instruction = 0;
};

// The inputs and outputs of a program. Refers to the program.
class ProgramMemory {
  public:
    ProgramMemory(const Driver& driver, const Gpu& gpu, const engine::PlanProgram& program,
                  const std::vector<CameraInfo>& cameras);

    // Where the CPU writes an input that is no frame; null when the program reads none of that name.
    template <typename T>
    T* input(std::string_view name) const {
        return reinterpret_cast<T*>(input_bytes(name));
    }
    // Where the CPU reads the only output.
    const float* output() const { return reinterpret_cast<const float*>(outputs_.data()); }
    // The block of a camera's frame: empty until somebody puts one there.
    StagedBlock& frame(std::size_t camera) { return frames_[camera]; }
    bool reads_frame(std::size_t camera) const;

    // All inputs but frames.
    void upload_inputs(Stream stream) const;
    void download_outputs(Stream stream) const;

    // The program's launches with all addresses filled in.
    std::vector<BoundLaunch> bind(const Modules& modules, const Places& places) const;

  private:
    std::byte* input_bytes(std::string_view name) const;
    DeviceAddress address(std::size_t buffer, const Places& places) const;

    const Driver& driver_;
    const engine::PlanProgram& program_;
    StagedBlock inputs_;  // all but frames
    StagedBlock outputs_;
    std::vector<StagedBlock> frames_;      // by camera
    std::vector<std::size_t> cameras_of_;  // by buffer: the camera whose frame it is, or npos
    std::vector<std::size_t> offsets_;     // by buffer: of inputs in inputs_, of outputs in outputs_
};

}  // namespace lightwam::cuda
