// SPDX-License-Identifier: Apache-2.0
//
// Polynomials over GF(2) are held bit-reversed, as the CRC has them: bit 31 is x^0, bit 0 is x^31. kPolynomial is
// x^32 mod P.
#include "engine/checksum.hpp"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lightwam::engine {
namespace {

constexpr std::uint32_t kPolynomial = 0xEDB88320U;
constexpr std::size_t kStride = 8;  // bytes the tables take at once
using Tables = std::array<std::array<std::uint32_t, 256>, kStride>;

constexpr std::uint32_t times_x(std::uint32_t value) { return (value >> 1) ^ ((value & 1U) != 0 ? kPolynomial : 0U); }

// tables[k][b]: what byte b adds to the remainder when k more bytes follow it.
constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t remainder = byte;
        for (int bit = 0; bit < 8; ++bit) remainder = times_x(remainder);
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

static_assert(std::endian::native == std::endian::little, "the numbers of an engine file are little-endian");

// The remainder of a message after `bytes` more of it.
std::uint32_t update(std::uint32_t remainder, const std::byte* data, std::size_t bytes) noexcept {
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
    return remainder;
}

// a * b mod P.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product = 0;
    for (; b != 0; b <<= 1, a = times_x(a))
        if ((b & 0x80000000U) != 0) product ^= a;
    return product;
}

// x^(8 bytes) mod P.
constexpr std::uint32_t shift_by(std::uint64_t bytes) {
    std::uint32_t result = 0x80000000U;
    for (std::uint32_t power = 0x00800000U; bytes != 0; bytes >>= 1, power = multiply(power, power))
        if ((bytes & 1U) != 0) result = multiply(result, power);
    return result;
}

#if defined(__x86_64__)

constexpr std::size_t kLane = 16;
constexpr std::size_t kLanes = 4;

// x^exponent mod P as a reversed 64-bit polynomial.
constexpr std::int64_t power_of_x(int exponent) {
    std::uint32_t value = 0x80000000U;
    for (int i = 0; i < exponent; ++i) value = times_x(value);
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << 32U);
}

// A lane is H x^64 + L (H in its low half). Moved on by `bits`, it is congruent to H (x^(bits+64) mod P) +
// L (x^bits mod P). The product of reversed factors comes out times x, so the constants are one power short.
template <int bits>
__attribute__((target("pclmul,sse4.1"))) inline __m128i fold(__m128i lane, __m128i next) {
    const __m128i powers = _mm_set_epi64x(power_of_x(bits - 1), power_of_x(bits + 63));
    const __m128i high = _mm_clmulepi64_si128(lane, powers, 0x00);
    const __m128i low = _mm_clmulepi64_si128(lane, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(high, low), next);
}

__attribute__((target("pclmul,sse4.1"))) inline __m128i load(const std::byte* data) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}

// Folds 64 bytes at a time into four lanes, these into one, and leaves that and the last bytes to the tables.
__attribute__((target("pclmul,sse4.1"))) std::uint32_t crc32_folded(const std::byte* data, std::size_t bytes) noexcept {
    __m128i lanes[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = load(data + i * kLane);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(-1));
    std::size_t at = kLanes * kLane;
    for (; at + kLanes * kLane <= bytes; at += kLanes * kLane)
        for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = fold<512>(lanes[i], load(data + at + i * kLane));
    for (std::size_t i = 1; i < kLanes; ++i) lanes[i] = fold<128>(lanes[i - 1], lanes[i]);
    std::byte rest[kLane];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), lanes[kLanes - 1]);
    return ~update(update(0, rest, kLane), data + at, bytes - at);
}

const bool kCanFold = __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0;

#endif

}  // namespace

std::uint32_t crc32_portable(const std::byte* data, std::size_t bytes) noexcept {
    return ~update(0xFFFFFFFFU, data, bytes);
}

std::uint32_t crc32(const std::byte* data, std::size_t bytes) noexcept {
#if defined(__x86_64__)
    if (kCanFold && bytes >= kLanes * kLane) return crc32_folded(data, bytes);
#endif
    return crc32_portable(data, bytes);
}

void JoinedChecksum::add(std::uint32_t piece, std::uint64_t bytes) noexcept {
    if (bytes != shift_bytes_) {
        shift_bytes_ = bytes;
        shift_ = shift_by(bytes);
    }
    value_ = multiply(value_, shift_) ^ piece;
}

}  // namespace lightwam::engine
