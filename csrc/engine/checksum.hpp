// SPDX-License-Identifier: Apache-2.0
// CRC-32 (the polynomial of zlib and PNG): finds numbers that changed on the way, not forgeries.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lightwam::engine {

std::uint32_t crc32(const std::byte* data, std::size_t bytes);

}  // namespace lightwam::engine
