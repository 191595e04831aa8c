// SPDX-License-Identifier: Apache-2.0
// CRC-32 against its definition, bit by bit; the fast form, the tables and joined pieces agree at every length.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/checksum.hpp"
#include "expect.hpp"

using namespace lightwam::engine;
using namespace lightwam::test;

namespace {

std::uint32_t by_definition(const std::byte* data, std::size_t bytes) {
    std::uint32_t remainder = 0xFFFFFFFFU;
    for (std::size_t i = 0; i < bytes; ++i) {
        remainder ^= std::to_integer<std::uint32_t>(data[i]);
        for (int bit = 0; bit < 8; ++bit)
            remainder = (remainder & 1U) != 0 ? (remainder >> 1) ^ 0xEDB88320U : remainder >> 1;
    }
    return ~remainder;
}

std::vector<std::byte> noise(std::size_t bytes) {
    std::vector<std::byte> data(bytes);
    std::uint64_t state = 1;
    for (std::byte& byte : data) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        byte = static_cast<std::byte>(state >> 56U);
    }
    return data;
}

void test_lengths(const std::vector<std::byte>& data) {
    for (std::size_t bytes = 0; bytes < 300; ++bytes) {
        for (const std::size_t offset : {0U, 3U}) {
            const std::uint32_t expected = by_definition(data.data() + offset, bytes);
            EXPECT(crc32(data.data() + offset, bytes) == expected);
            EXPECT(crc32_portable(data.data() + offset, bytes) == expected);
        }
    }
    EXPECT(crc32(data.data(), data.size()) == by_definition(data.data(), data.size()));
}

void test_joined(const std::vector<std::byte>& data) {
    for (const std::size_t piece : {1U, 7U, 64U, 1000U, 4096U, 100000U}) {
        JoinedChecksum joined;
        for (std::size_t begin = 0; begin < data.size(); begin += piece) {
            const std::size_t bytes = std::min<std::size_t>(piece, data.size() - begin);
            joined.add(crc32(data.data() + begin, bytes), bytes);
        }
        EXPECT(joined.value() == crc32(data.data(), data.size()));
    }
    EXPECT(JoinedChecksum().value() == crc32(data.data(), 0));
}

}  // namespace

int main() {
    constexpr std::string_view kCheck = "123456789";  // the value that every description of this CRC gives
    EXPECT(crc32(reinterpret_cast<const std::byte*>(kCheck.data()), kCheck.size()) == 0xCBF43926U);
    const std::vector<std::byte> data = noise(50021);
    test_lengths(data);
    test_joined(data);
    return finish();
}
