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

// A good cubin with a number of its header, of a section's or of a segment's replaced.
class Spoiled {
  public:
    explicit Spoiled(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}

    template <typename T>
    Spoiled& put(std::size_t at, T value) {
        std::memcpy(bytes_.data() + at, &value, sizeof(T));
        return *this;
    }
    template <typename T>
    Spoiled& section(std::size_t index, std::size_t at, T value) {
        std::uint64_t table = 0;
        std::memcpy(&table, bytes_.data() + 40, sizeof(table));
        return put(static_cast<std::size_t>(table) + 64 * index + at, value);
    }
    // Appends bytes; returns where they begin.
    std::uint64_t append(std::size_t count) {
        bytes_.resize(bytes_.size() + count);
        return bytes_.size() - count;
    }
    bool is_refused(const std::string& why) const {
        return throws_with<cuda::CubinError>(why, [&] { cuda::read_cubin(bytes_); });
    }

  private:
    std::vector<std::byte> bytes_;
};

constexpr std::uint64_t kFar = std::uint64_t{1} << 60;

void test_segments(const engine::EngineFile& file) {
    const std::vector<std::byte> good = first_cubin(file, 0);
    const auto with_segment = [&](std::uint64_t offset, std::uint64_t bytes) {
        Spoiled cubin(good);
        const std::uint64_t at = cubin.append(56);
        cubin.put(32, at).put<std::uint16_t>(54, 56).put<std::uint16_t>(56, 1);
        return cubin.put<std::uint64_t>(at + 8, offset).put<std::uint64_t>(at + 32, bytes);
    };
    EXPECT(!with_segment(64, 128).is_refused(""));
    EXPECT(with_segment(kFar, 0).is_refused("a segment runs past its end"));
    EXPECT(with_segment(64, kFar).is_refused("a segment runs past its end"));
    EXPECT(with_segment(64, ~std::uint64_t{0}).is_refused("a segment runs past its end"));
    EXPECT(Spoiled(good).put<std::uint16_t>(56, 1).put<std::uint16_t>(54, 55).is_refused("table of segments"));
    EXPECT(Spoiled(good).put<std::uint16_t>(56, 1).put(32, kFar).is_refused("its table of segments runs past its end"));
    EXPECT(Spoiled(good).put<std::uint16_t>(56, 1).put<std::uint16_t>(54, 0xFFFF).is_refused("table of segments"));
    EXPECT(Spoiled(good).put<std::uint16_t>(56, 0xFFFF).is_refused("table of segments"));
}

void test_sections(const engine::EngineFile& file) {
    const std::vector<std::byte> good = first_cubin(file, 0);
    EXPECT(Spoiled(good).section(0, 24, kFar).is_refused("a section runs past its end"));
    EXPECT(Spoiled(good).section(0, 32, std::uint64_t{4}).is_refused("section 0 is not empty"));
    EXPECT(Spoiled(good).section(0, 4, 8U).section(0, 32, kFar).is_refused("section 0 is not empty"));
    EXPECT(Spoiled(good).section(0, 40, 1U).is_refused("section 0 is not empty"));
    EXPECT(Spoiled(good).section(3, 24, kFar).is_refused("a section runs past its end"));
    EXPECT(Spoiled(good).section(3, 32, kFar).is_refused("a section runs past its end"));
    EXPECT(Spoiled(good).section(3, 40, 4U).is_refused("table of sections is damaged"));
    EXPECT(Spoiled(good).section(3, 0, 1U << 20U).is_refused("table of names is damaged"));
    EXPECT(Spoiled(good).section(1, 4, 8U).is_refused("table of names is damaged"));  // names without bytes
    EXPECT(Spoiled(good).section(3, 8, std::uint64_t{0x40}).section(3, 44, 9U).is_refused("table of sections"));
    EXPECT(Spoiled(good).put<std::uint16_t>(60, 0).is_refused("table of sections is damaged"));
    EXPECT(Spoiled(good).put(40, kFar).is_refused("its table of sections runs past its end"));
}

// The section with the attributes becomes one of symbols or relocations, over bytes that are appended.
void test_symbols_and_relocations(const engine::EngineFile& file) {
    const std::vector<std::byte> good = first_cubin(file, 0);
    constexpr std::uint64_t kSymbol = 24;
    const auto with_symbol = [&](std::uint32_t name, std::uint16_t home, std::uint64_t value, std::uint64_t bytes) {
        Spoiled cubin(good);
        const std::uint64_t at = cubin.append(kSymbol);
        cubin.section(2, 4, 2U).section(2, 24, at).section(2, 32, kSymbol).section(2, 40, 1U).section(2, 56, kSymbol);
        return cubin.put(at, name).put(at + 6, home).put(at + 8, value).put(at + 16, bytes);
    };
    // A symbol that is right leaves the list of attributes as what is wrong.
    EXPECT(with_symbol(0, 3, 0, 128).is_refused("damaged"));
    EXPECT(!with_symbol(0, 3, 0, 128).is_refused("symbols"));
    EXPECT(with_symbol(1U << 20U, 3, 0, 128).is_refused("table of names is damaged"));
    EXPECT(with_symbol(0, 4, 0, 0).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 3, 64, 65).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 3, kFar, 0).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 0xFFFF, 0, 0).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 3, 0, 0).section(2, 40, 3U).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 3, 0, 0).section(2, 44, 2U).is_refused("table of symbols is damaged"));
    EXPECT(with_symbol(0, 3, 0, 0).section(2, 56, std::uint64_t{7}).is_refused("table of symbols is damaged"));
    Spoiled relocated(good);
    const std::uint64_t at = relocated.append(kSymbol);
    relocated.section(2, 4, 4U).section(2, 24, at).section(2, 32, kSymbol).section(2, 56, kSymbol).section(2, 44, 3U);
    EXPECT(relocated.is_refused("table of relocations is damaged"));  // of no symbols
}

void test_modules_that_overlap(const engine::EngineFile& file, const std::string& path) {
    cuda::Gpu gpu;
    gpu.arch = 87;
    gpu.max_threads = 1024;
    gpu.max_shared = 99 << 10;
    engine::LaunchPlan plan = *file.launch_plan();
    plan.tasks[1].tactics[0][0].offset = plan.tasks[0].tactics[0][0].offset;
    plan.tasks[1].tactics[0][0].bytes = plan.tasks[0].tactics[0][0].bytes - 8;
    const std::vector<std::byte> code = code_of(file, 0);
    EXPECT(throws_with<Error>("overlaps another tactic's",
                              [&] { engine::ErrorReporter{path}([&] { cuda::check_cubins(plan, gpu, code); }); }));
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
    test_segments(file);
    test_sections(file);
    test_symbols_and_relocations(file);
    test_modules_that_overlap(file, argv[1]);
    test_tactics(file, argv[1]);
    test_parameters_of_other_sizes(file, argv[1]);
    test_intervals();
    return finish();
}
