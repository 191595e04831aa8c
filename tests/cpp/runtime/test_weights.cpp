// SPDX-License-Identifier: Apache-2.0
// Loading reads, checks and packs piece by piece: the result is that of packing whole tensors, and a file that changes
// or shrinks meanwhile is an error.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"
#include "runtime/weights.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

const std::string kScratch = "weights_scratch.lwam";

std::string bytes_of(const std::string& whole, const engine::Tensor& tensor) {
    return whole.substr(static_cast<std::size_t>(tensor.offset), tensor.bytes);
}

// Matrices and kernels [rows, ...] as the product reads them.
cpu::WeightSource source_of(const engine::Tensor& tensor) {
    cpu::WeightSource source;
    source.dtype = tensor.dtype == engine::DType::bf16 ? cpu::DType::bf16 : cpu::DType::f32;
    source.compute = source.dtype;
    source.rows = static_cast<std::size_t>(tensor.shape[0]);
    source.depth = tensor.bytes / source.rows / cpu::size_of(source.dtype);
    return source;
}

bool packs(const engine::Tensor& tensor) { return tensor.shape.size() >= 2; }

void test_load(const std::string& path, const cpu::KernelTable& kernels, int threads) {
    const std::string whole = read_file(path);
    const engine::EngineFile file(path);
    const std::vector<engine::Tensor>& tensors = file.graph().tensors;
    cpu::ThreadPool pool(threads);
    runtime::Weights weights(kernels);
    for (const bool loaded : {false, true}) {
        if (loaded) weights.load(file, pool);
        for (std::size_t i = 0; i < tensors.size(); i += 1) {
            if (i % 7 == 3) continue;  // some tensors that nobody wants
            const std::byte* raw = weights.raw(i);
            const std::byte* packed = packs(tensors[i]) ? weights.packed(i, source_of(tensors[i])) : nullptr;
            if (!loaded) continue;
            const std::string data = bytes_of(whole, tensors[i]);
            EXPECT(std::memcmp(raw, data.data(), data.size()) == 0);
            if (packed == nullptr) continue;
            cpu::WeightSource source = source_of(tensors[i]);
            source.data = data.data();
            std::vector<std::byte> expected(cpu::packed_bytes(kernels, source) + 64);
            std::byte* const aligned = expected.data() + (64 - reinterpret_cast<std::uintptr_t>(expected.data()) % 64);
            cpu::pack(kernels, pool, source, aligned);
            EXPECT(std::memcmp(packed, aligned, cpu::packed_bytes(kernels, source)) == 0);
        }
    }
}

// `spoil` runs between the header's verification and the numbers' loading.
template <typename Spoil>
void test_changed_meanwhile(const std::string& path, const std::string& message, Spoil&& spoil) {
    for (const bool wanted : {true, false}) {
        std::filesystem::copy_file(path, kScratch, std::filesystem::copy_options::overwrite_existing);
        const engine::EngineFile file(kScratch);
        const std::size_t tensor = 0;
        runtime::Weights weights(*cpu::best_kernels());
        if (wanted) {
            weights.raw(tensor);
            if (packs(file.graph().tensors[tensor])) weights.packed(tensor, source_of(file.graph().tensors[tensor]));
        }
        cpu::ThreadPool pool(2);
        spoil(file.graph().tensors[tensor]);
        EXPECT(throws_with<Error>(message, [&] { weights.load(file, pool); }));
        EXPECT(throws_with<Error>(message, [&] { file.check_all_numbers(); }));
    }
    std::remove(kScratch.c_str());
}

void flip_byte(std::uint64_t offset) {
    std::fstream file(kScratch, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string engine = argv[1];
    for (const cpu::Level level : cpu::kLevels) {
        if (const cpu::KernelTable* kernels = cpu::kernels_of(level)) test_load(engine, *kernels, 2);
    }
    test_load(engine, *cpu::best_kernels(), 1);
    test_changed_meanwhile(engine, "became shorter while it was read", [](const engine::Tensor& tensor) {
        std::filesystem::resize_file(kScratch, tensor.offset + tensor.bytes - 1);
    });
    test_changed_meanwhile(engine, "is damaged: its checksum is",
                           [](const engine::Tensor& tensor) { flip_byte(tensor.offset + tensor.bytes - 4); });
    return finish();
}
