// SPDX-License-Identifier: Apache-2.0
// Constants of an engine file, to compute with.
#pragma once

#include <string>
#include <vector>

#include "engine/engine_file.hpp"

namespace lightwam::test {

// A constant of an engine; empty when it has none of that name.
inline std::vector<float> tensor_of(const engine::EngineFile& file, const std::string& name) {
    for (const engine::Tensor& tensor : file.graph().tensors) {
        if (tensor.name != name) continue;
        std::vector<float> values(tensor.bytes / sizeof(float));
        file.read(tensor, 0, tensor.bytes, reinterpret_cast<std::byte*>(values.data()));
        return values;
    }
    return {};
}

}  // namespace lightwam::test
