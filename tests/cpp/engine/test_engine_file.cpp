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

void test_foreign() {
    const auto told = [](const std::string& bytes, const std::string& part) {
        write_file(kScratch, bytes);
        return throws_with<Error>(part, [] { EngineFile file(kScratch); });
    };
    EXPECT(told("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n", "git lfs pull"));
    EXPECT(told(" \n<!DOCTYPE HTML><html></html>", "an HTML page"));
    EXPECT(told("<html>", "an HTML page"));
    EXPECT(told("{\"error\": \"gated\"}", "a JSON document"));
    EXPECT(told("Not Found", "a text file"));
    EXPECT(told(std::string("PK\x03\x04") + std::string(30, '\0'), "torch.save"));
    EXPECT(told(std::string("\x1f\x8b\x08") + std::string(30, '\0'), "gzip"));
    EXPECT(told(std::string(257, 'x') + "ustar" + std::string(250, '\0'), "tar archive"));
    EXPECT(told("ftrt" + std::string(30, '\0'), "TensorRT"));
    EXPECT(told(std::string("\x08\x0b\x12\x07pytorch", 12), "ONNX"));
    EXPECT(told(std::string(600, '\0'), "zero bytes"));
    EXPECT(told("", "is empty"));
    EXPECT(told("\x1f", "bytes long"));
    EXPECT(told(std::string("\x1f\x8b\0\0\0\0\0\0{", 9), "truncated"));  // the length of a header, not a mark
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
    test_foreign();
    std::remove(kScratch.c_str());
    return finish();
}
