// SPDX-License-Identifier: Apache-2.0
// CRC-32 (the polynomial of zlib and PNG): finds numbers that changed on the way, not forgeries.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lightwam::engine {

// With the CPU's carry-less multiplication where it has one.
std::uint32_t crc32(const std::byte* data, std::size_t bytes) noexcept;

// The same number from tables, on any CPU.
std::uint32_t crc32_portable(const std::byte* data, std::size_t bytes) noexcept;

// Joins the checksums of pieces that follow each other: add(crc32(a), |a|), add(crc32(b), |b|) gives crc32(a b).
class JoinedChecksum {
  public:
    void add(std::uint32_t piece, std::uint64_t bytes) noexcept;
    std::uint32_t value() const noexcept { return value_; }

  private:
    std::uint32_t value_ = 0;  // of no byte
    std::uint64_t shift_bytes_ = 0;
    std::uint32_t shift_ = 0;  // x^(8 shift_bytes): most pieces are equally long
};

}  // namespace lightwam::engine
