// SPDX-License-Identifier: Apache-2.0
// Every cut and many flips of a small engine file: an Error or a verified graph, never a crash (run with sanitizers).
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/engine_file.hpp"
#include "expect.hpp"

using lightwam::Error;
using lightwam::ErrorKind;
using lightwam::engine::EngineFile;
using namespace lightwam::test;

namespace {

const std::string kScratch = "engine_file_scratch.lwam";

bool fails(const std::string& bytes) {
    write_file(kScratch, bytes);
    try {
        const EngineFile file(kScratch);
        return false;
    } catch (const Error& error) {
        EXPECT(error.kind() == ErrorKind::engine);
        EXPECT(std::string(error.what()).find('\n') == std::string::npos);
        return true;
    }
}

void test_good(const std::string& path) {
    const EngineFile file(path);
    EXPECT(file.graph().name == "small");
    EXPECT(!file.graph().act.ops.empty() && !file.graph().set_instruction.ops.empty());
    EXPECT(file.document().find("lightwam-engine") != std::string::npos);
}

void test_truncations(const std::string& whole) {
    for (std::size_t length = 0; length < whole.size(); length += 61) EXPECT(fails(whole.substr(0, length)));
    EXPECT(fails(whole + "x"));
}

void test_flips(std::string whole) {
    std::size_t accepted = 0;
    for (std::size_t at = 0; at < whole.size(); at += 23) {
        const char before = whole[at];
        whole[at] = static_cast<char>(before ^ (1 << (at % 8)));
        accepted += fails(whole) ? 0 : 1;
        whole[at] = before;
    }
    EXPECT(accepted < whole.size() / 23);  // flips of weights and names cannot be seen; those of structure must be
    EXPECT(!fails(whole));
}

void test_missing() {
    EXPECT(throws_with<Error>("cannot be opened", [] { EngineFile("no/such/file.lwam"); }));
    EXPECT(throws_with<Error>("not an ordinary file", [] { EngineFile("/"); }));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string folder = argv[1];
    for (const char* name : {"/small_images.lwam", "/small_latents.lwam"}) {
        const std::string whole = read_file(folder + name);
        test_good(folder + name);
        test_truncations(whole);
        test_flips(whole);
    }
    test_missing();
    std::remove(kScratch.c_str());
    return finish();
}
