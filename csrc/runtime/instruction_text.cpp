// SPDX-License-Identifier: Apache-2.0
#include "runtime/instruction_text.hpp"

#include <algorithm>
#include <cstdio>

#include "engine/utf8.hpp"
#include "lightwam/policy.hpp"

namespace lightwam::runtime {
namespace {

struct Range {
    char32_t first;
    char32_t last;
};

// The same lists as in python/lightwam/words.py. White space, and what umT5's tokenizer takes for it.
constexpr Range kSpaces[] = {{0x09, 0x0A},     {0x0C, 0x0D},     {0x85, 0x85},     {0x61C, 0x61C},   {0x1680, 0x1680},
                             {0x200B, 0x200C}, {0x200E, 0x200F}, {0x2028, 0x2029}, {0x2581, 0x2581}, {0xFFFD, 0xFFFD}};
// Control characters, and what shows nothing.
constexpr Range kInvisible[] = {{0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},      {0x34F, 0x34F},
                                {0x115F, 0x1160}, {0x180B, 0x180F}, {0x200D, 0x200D},  {0x202A, 0x202E},
                                {0x2060, 0x206F}, {0x3164, 0x3164}, {0xFE00, 0xFE0F},  {0xFEFF, 0xFEFF},
                                {0xFFA0, 0xFFA0}, {0xFFF9, 0xFFFC}, {0xE0000, 0xE0FFF}};
constexpr Range kSingleQuotes[] = {{0x2BC, 0x2BC}, {0x2018, 0x201B}};
constexpr Range kDoubleQuotes[] = {{0x201C, 0x201F}};

template <std::size_t count>
bool holds(const Range (&ranges)[count], char32_t code) {
    return std::ranges::any_of(ranges, [&](Range range) { return range.first <= code && code <= range.last; });
}

void append_plain(char32_t code, std::u32string& out) {
    if (holds(kSpaces, code))
        out += U' ';
    else if (holds(kSingleQuotes, code))
        out += U'\'';
    else if (holds(kDoubleQuotes, code))
        out += U'"';
    else if (!holds(kInvisible, code))
        out += code;
}

std::u32string decode(std::string_view text) {
    std::u32string codes;
    codes.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = engine::utf8_length(text.substr(at));
        if (length == 0) {
            char byte[8];
            std::snprintf(byte, sizeof(byte), "0x%02x", static_cast<unsigned char>(text[at]));
            throw Error(ErrorKind::instruction, "the instruction is not valid UTF-8: byte " + std::string(byte) +
                                                    " at position " + std::to_string(at) + "; encode it as UTF-8");
        }
        append_plain(engine::utf8_code(text.substr(at), length), codes);
        at += length;
    }
    return codes;
}

}  // namespace

std::string InstructionCleaner::operator()(std::string_view text) {
    std::u32string codes = decode(text);
    if (std::ranges::any_of(codes, [](char32_t code) { return code >= 0x80; })) {
        if (!nfkc_) nfkc_.emplace();
        const std::u32string normalized = nfkc_->normalize(codes);
        codes.clear();
        for (const char32_t code : normalized) append_plain(code, codes);  // of what the form is made of, U+02BC is one
    }
    std::string result;
    for (const char32_t code : codes) {
        if (code != U' ' || (!result.empty() && result.back() != ' ')) engine::append_utf8(result, code);
    }
    if (!result.empty() && result.back() == ' ') result.pop_back();
    return result;
}

}  // namespace lightwam::runtime
