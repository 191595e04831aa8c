// SPDX-License-Identifier: Apache-2.0
// One pass over an engine file: every byte is read once, checked, and what the GPU needs goes there.
#pragma once

#include <map>
#include <vector>

#include "cuda/device.hpp"
#include "engine/engine_file.hpp"

namespace lightwam::cuda {

// A whole tensor, read into memory and checked. Throws Error (engine).
std::vector<std::byte> read_tensor(const engine::EngineFile& file, std::size_t tensor);

// Constants that stay on the CPU, by tensor.
using HostConstants = std::map<std::size_t, std::vector<std::byte>>;

// Copies the plan's weights to the device block at `weights` through two page-locked buffers: one is filled from the
// file while the other is copied. Fills `kept`; leaves out the tensor `done`, which was read before; checks all others.
// Returns when everything is there. Throws Error (engine), DriverError.
void upload_weights(const engine::EngineFile& file, const Driver& driver, Stream stream, DeviceAddress weights,
                    HostConstants& kept, std::size_t done);

}  // namespace lightwam::cuda
