// SPDX-License-Identifier: Apache-2.0
// What the numbers of a constant must be, checked piece by piece while they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/graph.hpp"

namespace lightwam::engine {

// One piece of a tensor: how reading it ended and what its bytes are like.
struct PieceReport {
    std::uint64_t bytes = 0;
    int read_error = 0;       // InputFile::read
    std::uint32_t crc32 = 0;  // of the piece
    bool finite = true;
    bool in_range = true;  // i8: no -128; scales of quantised weights: positive
};

// Looks at the bytes of a piece, whole elements. Never throws, so that pieces can be read in parallel.
PieceReport examine(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept;

// Fails (error_reporter.hpp) on a tensor that could not be read, holds NaN, infinity or a number that its role
// excludes, or does not fit its checksum. `pieces` are all of it, in order.
void check_numbers(const Tensor& tensor, std::span<const PieceReport> pieces);

}  // namespace lightwam::engine
