// SPDX-License-Identifier: Apache-2.0
#include "engine/error_reporter.hpp"

#include <cstdio>

#include "lightwam/policy.hpp"

namespace lightwam {

Error::Error(ErrorKind kind, const std::string& message) : std::runtime_error(engine::one_line(message)), kind_(kind) {}

}  // namespace lightwam

namespace lightwam::engine {
namespace {

constexpr std::size_t kMaxMessage = 600;

unsigned char byte_at(std::string_view text, std::size_t at) {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
}

std::string escaped(const char* format, unsigned value) {
    char text[8];
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

}  // namespace

// Written out here: what() ends at a zero byte.
void fail(const std::string& why) { throw FileError(one_line(why)); }

void ErrorReporter::report(const std::string& why) const {
    std::string message = kind_ + " '" + path_ + "': " + why;
    if (message.size() > kMaxMessage) {
        std::size_t end = kMaxMessage;
        while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
        message = message.substr(0, end) + "...";
    }
    throw Error(ErrorKind::engine, message);
}

std::string one_line(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t at = 0; at < text.size(); ++at) {
        const unsigned char byte = byte_at(text, at);
        const unsigned char second = byte_at(text, at + 1);
        const unsigned char third = byte_at(text, at + 2);
        if (byte == '\n') {
            result += "\\n";
        } else if (byte < 0x20 || byte == 0x7F) {
            result += escaped("\\x%02x", byte);
        } else if (byte == 0xC2 && second >= 0x80 && second < 0xA0) {  // U+0080 to U+009F
            result += escaped("\\u%04x", second);
            at += 1;
        } else if (byte == 0xE2 && second == 0x80 && (third == 0xA8 || third == 0xA9)) {  // U+2028, U+2029
            result += escaped("\\u%04x", 0x2028U + (third - 0xA8U));
            at += 2;
        } else {
            result += static_cast<char>(byte);
        }
    }
    return result;
}

}  // namespace lightwam::engine
