// SPDX-License-Identifier: Apache-2.0
// Reader of the safetensors container: 8 bytes of header length, a JSON header, then the tensors without a gap.
#pragma once

#include <string>
#include <vector>

#include "engine/graph.hpp"
#include "engine/input_file.hpp"

namespace lightwam::engine {

struct SafeTensors {
    std::vector<Tensor> tensors;  // in the order of the header
    std::string lightwam;         // the text of the metadata entry "lightwam"
};

// Reads and checks the header: lengths, dtypes, shapes, offsets, alignment, and that tensors neither overlap
// nor leave holes. Fails (error_reporter.hpp) otherwise.
SafeTensors read_safetensors(const InputFile& file);

}  // namespace lightwam::engine
