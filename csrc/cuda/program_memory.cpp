// SPDX-License-Identifier: Apache-2.0
#include "cuda/program_memory.hpp"

#include <algorithm>

namespace lightwam::cuda {
namespace {

using engine::npos;
using engine::PlanBuffer;
using engine::Space;

// Bytes of the buffers of a space, one after the other, but for frames.
std::size_t space_bytes(const engine::PlanProgram& program, Space space) {
    std::size_t total = 0;
    for (const PlanBuffer& buffer : program.buffers)
        if (buffer.space == space) total += aligned(buffer.bytes.value_or(0));
    return total;
}

}  // namespace

std::size_t bound_bytes(const engine::PlanProgram& program) {
    return space_bytes(program, Space::input) + space_bytes(program, Space::output);
}

ProgramMemory::ProgramMemory(const Driver& driver, const Gpu& gpu, const engine::PlanProgram& program,
                             const std::vector<CameraInfo>& cameras)
    : driver_(driver),
      program_(program),
      inputs_(driver, gpu, space_bytes(program, Space::input), "inputs"),
      outputs_(driver, gpu, space_bytes(program, Space::output), "actions"),
      frames_(cameras.size()),
      cameras_of_(program.buffers.size(), npos) {
    std::size_t input_bytes = 0;
    std::size_t output_bytes = 0;
    for (std::size_t i = 0; i < program.buffers.size(); ++i) {
        const PlanBuffer& buffer = program.buffers[i];
        std::size_t& end = buffer.space == Space::output ? output_bytes : input_bytes;
        offsets_.push_back(end);
        if (buffer.space == Space::input || buffer.space == Space::output) end += aligned(buffer.bytes.value_or(0));
        if (buffer.bytes) continue;
        const std::string name = buffer.name.substr(engine::kFramePrefix.size());
        const auto camera = std::ranges::find(cameras, name, &CameraInfo::name);
        cameras_of_[i] = static_cast<std::size_t>(camera - cameras.begin());
    }
}

bool ProgramMemory::reads_frame(std::size_t camera) const {
    return std::find(cameras_of_.begin(), cameras_of_.end(), camera) != cameras_of_.end();
}

std::byte* ProgramMemory::input_bytes(std::string_view name) const {
    for (std::size_t i = 0; i < program_.buffers.size(); ++i)
        if (const PlanBuffer& buffer = program_.buffers[i];
            buffer.space == Space::input && buffer.bytes && buffer.name == name)
            return inputs_.data() + offsets_[i];
    return nullptr;
}

DeviceAddress ProgramMemory::address(std::size_t buffer, const Places& places) const {
    switch (program_.buffers[buffer].space) {
        case Space::arena:
            return places.arena + program_.buffers[buffer].offset;
        case Space::instruction:
            return places.instruction + program_.buffers[buffer].offset;
        case Space::output:
            return outputs_.address() + offsets_[buffer];
        case Space::input:
            break;
    }
    const std::size_t camera = cameras_of_[buffer];
    return camera == npos ? inputs_.address() + offsets_[buffer] : frames_[camera].address();
}

void ProgramMemory::upload_inputs(Stream stream) const { inputs_.upload(driver_, stream, inputs_.bytes()); }

void ProgramMemory::download_outputs(Stream stream) const { outputs_.download(driver_, stream); }

std::vector<BoundLaunch> ProgramMemory::bind(const Modules& modules, const Places& places) const {
    std::vector<BoundLaunch> launches;
    launches.reserve(program_.launches.size());
    for (const engine::Launch& launch : program_.launches) {
        BoundLaunch bound{&launch.name, &modules.call(launch.task), {}};
        for (const engine::PlanAddress& argument : launch.arguments)
            bound.addresses.push_back((argument.weight ? places.weights : address(argument.buffer, places)) +
                                      argument.offset);
        launches.push_back(std::move(bound));
    }
    return launches;
}

}  // namespace lightwam::cuda
