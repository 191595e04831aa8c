// SPDX-License-Identifier: Apache-2.0
// Reader of the safetensors container: 8 bytes of header length, a JSON header, then the tensors without a gap.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::engine {

struct SafeTensors {
    std::vector<Tensor> tensors;  // in the order of the header
    std::string lightwam;         // the text of the metadata entry "lightwam"
};

// Checks lengths, dtypes (F32 and BF16), shapes, offsets, alignment, and that tensors neither overlap nor leave holes.
// Throws Error (engine); `path` is for its message.
SafeTensors read_safetensors(std::span<const std::byte> file, const std::string& path);

// True when a value is NaN or infinite. Reads the whole tensor.
bool has_non_finite(const Tensor& tensor);

}  // namespace lightwam::engine
