// SPDX-License-Identifier: Apache-2.0
// Reads from a cubin (an ELF file with machine code for one GPU architecture) how its entry is launched.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace lightwam::cuda {

// Says why the bytes are no cubin that we can launch. One line.
class CubinError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct CubinParameter {
    std::uint32_t offset = 0;  // in the block of parameters
    std::uint32_t bytes = 0;
};

struct Cubin {
    int arch = 0;       // 87 for sm_87
    std::string entry;  // its only one
    std::vector<CubinParameter> parameters;
    std::uint32_t parameter_bytes = 0;
    std::array<std::uint32_t, 3> required_threads = {};  // zero: any
};

// Reads a cubin with one entry. Throws CubinError; never reads outside of `bytes`.
Cubin read_cubin(std::span<const std::byte> bytes);

}  // namespace lightwam::cuda
