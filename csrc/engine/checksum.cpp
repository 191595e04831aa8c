// SPDX-License-Identifier: Apache-2.0
#include "engine/checksum.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace lightwam::engine {
namespace {

constexpr std::size_t kStride = 8;  // bytes taken at once
using Tables = std::array<std::array<std::uint32_t, 256>, kStride>;

// tables[k][b]: what byte b adds to the remainder when k more bytes follow it.
constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t remainder = byte;
        for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1U) != 0 ? 0xEDB88320U : 0U);
        tables[0][byte] = remainder;
    }
    for (std::size_t k = 1; k < kStride; ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t previous = tables[k - 1][byte];
            tables[k][byte] = (previous >> 8) ^ tables[0][previous & 0xFFU];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

static_assert(std::endian::native == std::endian::little, "the numbers of an engine file are little-endian");

std::uint32_t crc32(const std::byte* data, std::size_t bytes) {
    std::uint32_t remainder = 0xFFFFFFFFU;
    for (; bytes >= kStride; bytes -= kStride, data += kStride) {
        std::uint32_t words[2];
        std::memcpy(words, data, kStride);
        const std::uint32_t low = remainder ^ words[0];
        const std::uint32_t high = words[1];
        remainder = kTables[7][low & 0xFFU] ^ kTables[6][(low >> 8) & 0xFFU] ^ kTables[5][(low >> 16) & 0xFFU] ^
                    kTables[4][low >> 24] ^ kTables[3][high & 0xFFU] ^ kTables[2][(high >> 8) & 0xFFU] ^
                    kTables[1][(high >> 16) & 0xFFU] ^ kTables[0][high >> 24];
    }
    for (; bytes > 0; --bytes, ++data) {
        remainder = (remainder >> 8) ^ kTables[0][(remainder ^ std::to_integer<std::uint32_t>(*data)) & 0xFFU];
    }
    return ~remainder;
}

}  // namespace lightwam::engine
