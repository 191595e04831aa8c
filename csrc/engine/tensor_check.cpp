// SPDX-License-Identifier: Apache-2.0
#include "engine/tensor_check.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "engine/checksum.hpp"
#include "engine/error_reporter.hpp"
#include "engine/safetensors.hpp"

namespace lightwam::engine {
namespace {

// True when an element is NaN or infinite: all bits of its exponent are set.
template <typename Word>
bool has_non_finite(const std::byte* data, std::size_t bytes, Word exponent) noexcept {
    constexpr std::size_t kChunk = 4096;
    const std::size_t count = bytes / sizeof(Word);
    Word words[kChunk];
    for (std::size_t at = 0; at < count; at += kChunk) {
        const std::size_t length = std::min(kChunk, count - at);
        std::memcpy(words, data + at * sizeof(Word), length * sizeof(Word));
        Word found = 0;
        for (std::size_t i = 0; i < length; ++i) found |= static_cast<Word>((words[i] & exponent) == exponent);
        if (found != 0) return true;
    }
    return false;
}

// e4m3: NaN only, 0x7F with either sign.
bool has_nan_of_f8(const std::byte* data, std::size_t bytes) noexcept {
    return has_non_finite<std::uint8_t>(data, bytes, 0x7FU);
}

bool all_finite(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept {
    if (tensor.dtype == DType::f32) return !has_non_finite<std::uint32_t>(data, bytes, 0x7F800000U);
    if (tensor.dtype == DType::f8) return !has_nan_of_f8(data, bytes);
    if (tensor.dtype == DType::f16) return !has_non_finite<std::uint16_t>(data, bytes, 0x7C00U);
    return tensor.dtype != DType::bf16 || !has_non_finite<std::uint16_t>(data, bytes, 0x7F80U);
}

bool all_in_range(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept {
    if (tensor.dtype == DType::i8) return tensor.opaque || std::memchr(data, 0x80, bytes) == nullptr;
    if (!tensor.positive || tensor.dtype != DType::f32) return true;
    for (std::size_t at = 0; at + sizeof(float) <= bytes; at += sizeof(float)) {
        float value;
        std::memcpy(&value, data + at, sizeof value);
        if (!(value > 0.0F)) return false;
    }
    return true;
}

std::string hexadecimal(std::uint32_t value) {
    char text[9];
    std::snprintf(text, sizeof(text), "%08x", static_cast<unsigned>(value));
    return text;
}

}  // namespace

PieceReport examine(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept {
    PieceReport report;
    report.bytes = bytes;
    report.finite = all_finite(tensor, data, bytes);
    report.in_range = all_in_range(tensor, data, bytes);
    if (tensor.checksum) report.crc32 = crc32(data, bytes);
    return report;
}

void check_numbers(const Tensor& tensor, std::span<const PieceReport> pieces) {
    JoinedChecksum found;
    for (const PieceReport& piece : pieces) {
        if (piece.read_error != 0) fail(read_error_text(piece.read_error));
        if (!piece.finite) fail("tensor '" + tensor.name + "' holds NaN or infinity");
        if (!piece.in_range)
            fail("tensor '" + tensor.name +
                 (tensor.dtype == DType::i8 ? "' holds -128; expected -127 to 127"
                                            : "' holds a scale that is not positive"));
        found.add(piece.crc32, piece.bytes);
    }
    if (tensor.checksum && *tensor.checksum != found.value())
        fail("tensor '" + tensor.name + "' is damaged: its checksum is " + hexadecimal(found.value()) + "; expected " +
             hexadecimal(*tensor.checksum) + "; fetch the file again");
}

}  // namespace lightwam::engine
