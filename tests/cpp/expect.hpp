// SPDX-License-Identifier: Apache-2.0
// The whole test framework of the engine and runtime tests: count failures, say where, exit 1.
#pragma once

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

namespace lightwam::test {

inline int failures = 0;

inline void expect(bool condition, const char* text, const char* file, int line) {
    if (condition) return;
    std::fprintf(stderr, "%s:%d: expected %s\n", file, line, text);
    ++failures;
}

// True when `body` throws an E whose message holds `part`.
template <typename E, typename Body>
bool throws_with(const std::string& part, Body&& body) {
    try {
        body();
    } catch (const E& error) {
        if (std::string(error.what()).find(part) != std::string::npos) return true;
        std::fprintf(stderr, "message: %s\n", error.what());
    }
    return false;
}

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write_file(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline int finish() {
    if (failures > 0) std::fprintf(stderr, "%d failed\n", failures);
    return failures == 0 ? 0 : 1;
}

}  // namespace lightwam::test

#define EXPECT(condition) ::lightwam::test::expect((condition), #condition, __FILE__, __LINE__)
