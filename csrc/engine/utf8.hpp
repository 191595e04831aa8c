// SPDX-License-Identifier: Apache-2.0
// UTF-8: the length of a sequence, a sequence to its code point and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lightwam::engine {

// Length of the valid UTF-8 sequence at the start of `text` (no overlong forms, no surrogates); 0 if there is none.
inline std::size_t utf8_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const unsigned lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
    const bool no_character = (lead == 0xED && byte(1) > 0x9F) || (lead == 0xF4 && byte(1) > 0x8F);
    return overlong || no_character ? 0 : length;
}

// The code point of a valid sequence of `length` bytes at the start of `text`.
inline char32_t utf8_code(std::string_view text, std::size_t length) noexcept {
    static constexpr unsigned kLeadBits[] = {0x7F, 0x1F, 0x0F, 0x07};
    std::uint32_t code = static_cast<unsigned char>(text[0]) & kLeadBits[length - 1];
    for (std::size_t i = 1; i < length; ++i) code = (code << 6) | (static_cast<unsigned char>(text[i]) & 0x3FU);
    return code;
}

inline void append_utf8(std::string& out, std::uint32_t code) {
    static constexpr std::uint32_t kLeads[] = {0x00, 0xC0, 0xE0, 0xF0};
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
    out.push_back(static_cast<char>(kLeads[more] | (code >> (6 * more))));
    while (more-- > 0) out.push_back(static_cast<char>(0x80 | ((code >> (6 * more)) & 0x3F)));
}

}  // namespace lightwam::engine
