// SPDX-License-Identifier: Apache-2.0
// Cubins: what is read of them, that damaged ones are errors, and how tactics are held against them.
#include <cstring>

#include "cuda/cubin.hpp"
#include "cuda/modules.hpp"
#include "engine/engine_file.hpp"
#include "engine/intervals.hpp"
#include "expect.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

std::vector<std::byte> code_of(const engine::EngineFile& file, std::size_t target) {
    const engine::Tensor& tensor = file.graph().tensors[file.launch_plan()->targets[target].tensor];
    std::vector<std::byte> bytes(tensor.bytes);
    file.read(tensor, 0, bytes.size(), bytes.data());
    return bytes;
}

std::vector<std::byte> first_cubin(const engine::EngineFile& file, std::size_t target) {
    const std::vector<std::byte> all = code_of(file, target);
    const engine::Tactic& tactic = file.launch_plan()->tasks[0].tactics[target][0];
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(tactic.offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(tactic.bytes)};
}

void test_reading(const engine::EngineFile& file) {
    for (std::size_t target = 0; target < 2; ++target) {
        const cuda::Cubin cubin = cuda::read_cubin(first_cubin(file, target));
        EXPECT(cubin.arch == file.launch_plan()->targets[target].arch && cubin.entry == "encode_kernel");
        EXPECT(cubin.parameters.size() == 5 && cubin.parameter_bytes == 40);
        for (std::size_t i = 0; i < cubin.parameters.size(); ++i)
            EXPECT(cubin.parameters[i].bytes == 8 && cubin.parameters[i].offset == 8 * i);
        EXPECT(cubin.required_threads[0] == 64 && cubin.required_threads[1] == 1 && cubin.required_threads[2] == 1);
    }
}

// Every prefix, and every byte replaced: read or an error, never a crash (the sanitizers look on).
void test_damage(const engine::EngineFile& file) {
    const std::vector<std::byte> good = first_cubin(file, 0);
    int rejected = 0;
    const auto attempt = [&](const std::vector<std::byte>& bytes) {
        try {
            cuda::read_cubin(bytes);
        } catch (const cuda::CubinError&) {
            ++rejected;
        }
    };
    for (std::size_t size = 0; size < good.size(); ++size)
        attempt({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)});
    EXPECT(rejected == static_cast<int>(good.size()));
    for (std::size_t at = 0; at < good.size(); ++at) {
        for (const int value : {0x00, 0x7F, 0xFF}) {
            std::vector<std::byte> bad = good;
            bad[at] = static_cast<std::byte>(value);
            attempt(bad);
        }
    }
    EXPECT(throws_with<cuda::CubinError>("no cubin", [] { cuda::read_cubin({}); }));
}

void test_tactics(const engine::EngineFile& file, const std::string& path) {
    const auto check = [&](const engine::LaunchPlan& plan, const cuda::Gpu& gpu, std::span<const std::byte> code) {
        engine::ErrorReporter{path}([&] { cuda::check_cubins(plan, gpu, code); });
    };
    cuda::Gpu gpu;
    gpu.name = "Toy";
    gpu.arch = 87;
    gpu.max_threads = 1024;
    gpu.max_shared = 99 << 10;
    const std::vector<std::byte> code = code_of(file, 0);
    check(*file.launch_plan(), gpu, code);
    const auto rejected = [&](auto change, const std::string& why) {
        engine::LaunchPlan plan = *file.launch_plan();
        change(plan.tasks[0], plan.tasks[0].tactics[0][0]);
        EXPECT(throws_with<Error>(why, [&] { check(plan, gpu, code); }));
    };
    using engine::PlanTask;
    using engine::Tactic;
    rejected([](PlanTask&, Tactic& t) { t.entry = "decode"; }, "entry 'encode_kernel'; expected 'decode'");
    rejected([](PlanTask&, Tactic& t) { t.threads = 128; }, "a block of 64 x 1 x 1 threads; expected 128");
    rejected([](PlanTask& task, Tactic&) { task.arguments.pop_back(); }, "parameters of 5; expected 4");
    rejected([](PlanTask&, Tactic& t) { t.offset += 8; }, "cannot be used: it is no cubin");
    rejected([](PlanTask&, Tactic& t) { t.bytes -= 8; }, "cannot be used: ");
    rejected(
        [](PlanTask&, Tactic& t) { t.shared = 100 << 10; },
        "task 'encode' (encode), tactic 0 of sm_87 needs 102400 bytes of shared memory a block, but GPU 'Toy' has");
    gpu.arch = 89;
    EXPECT(throws_with<Error>("architecture sm_87; expected sm_89", [&] { check(*file.launch_plan(), gpu, code); }));
    gpu.arch = 87;
    gpu.max_threads = 32;
    EXPECT(throws_with<Error>("needs 64 threads a block", [&] { check(*file.launch_plan(), gpu, code); }));
}

void test_parameters_of_other_sizes(const engine::EngineFile& file, const std::string& path) {
    std::vector<std::byte> code = code_of(file, 0);
    // The second parameter becomes four bytes long: its entry ends with the word (8 << 18) | ... after index 1.
    const unsigned char entry[] = {0x04, 0x17, 12, 0, 0, 0, 0, 0, 1, 0, 8, 0};
    for (std::size_t at = 0; at + 16 < code.size(); ++at) {
        if (std::memcmp(code.data() + at, entry, sizeof(entry)) != 0) continue;
        const std::uint32_t word = 4U << 18;
        std::memcpy(code.data() + at + 12, &word, sizeof(word));
        break;
    }
    cuda::Gpu gpu;
    gpu.arch = 87;
    EXPECT(throws_with<Error>("parameter 1 of 4 bytes at 8; expected 8 at 8", [&] {
        engine::ErrorReporter{path}([&] { cuda::check_cubins(*file.launch_plan(), gpu, code); });
    }));
}

void test_intervals() {
    engine::Intervals bytes;
    EXPECT(bytes.covers(5, 5) && !bytes.covers(0, 1) && !bytes.intersects(0, 100));
    bytes.add(10, 20);
    bytes.add(30, 40);
    EXPECT(bytes.covers(10, 20) && bytes.covers(12, 13) && !bytes.covers(9, 11) && !bytes.covers(15, 35));
    EXPECT(!bytes.intersects(20, 30) && bytes.intersects(19, 30) && bytes.intersects(0, 100));
    bytes.add(20, 30);
    EXPECT(bytes.covers(10, 40) && !bytes.covers(10, 41));
    bytes.add(0, 100);
    EXPECT(bytes.covers(0, 100) && !bytes.intersects(100, 200));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    const engine::EngineFile file(argv[1]);
    test_reading(file);
    test_damage(file);
    test_tactics(file, argv[1]);
    test_parameters_of_other_sizes(file, argv[1]);
    test_intervals();
    return finish();
}
