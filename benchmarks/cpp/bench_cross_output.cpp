// SPDX-License-Identifier: Apache-2.0
//
// bench_cross_output [BLOCKS]: cross-attention up to the residual stream at the published policy's size, as attention
// and output projection, and folded (with the projection of the proprio key, which each step needs). Every sample runs
// all blocks (25 by default), each with weights and keys of its own, so that they come from memory as in a policy; the
// two forms take turns, so that they meet the same machine. Processor time of one thread, medians.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "cpu/cpu.hpp"

namespace cpu = lightwam::cpu;
using cpu::DType;

namespace {

constexpr std::size_t kTokens = 392, kHeads = 12, kHeadWidth = 128, kWidth = kHeads * kHeadWidth;
constexpr std::size_t kMaxText = 128;

// 64-byte aligned numbers in [-0.5, 0.5).
class Numbers {
  public:
    Numbers(DType dtype, std::size_t count) : dtype_(dtype), storage_(count * size_of(dtype) + 64) {
        for (std::size_t i = 0; i < count; ++i) {
            const float value = static_cast<float>((i * 7919) % 1009) / 1009.0F - 0.5F;
            std::uint32_t bits = 0;
            std::memcpy(&bits, &value, sizeof bits);
            const auto half = static_cast<cpu::bf16_bits>(bits >> 16U);
            std::memcpy(data() + i * size_of(dtype), dtype == DType::f32 ? static_cast<const void*>(&bits) : &half,
                        size_of(dtype));
        }
    }
    std::byte* data() { return storage_.data() + (64 - reinterpret_cast<std::uintptr_t>(storage_.data()) % 64) % 64; }
    float* floats() { return reinterpret_cast<float*>(data()); }
    cpu::Input input() { return {data(), dtype_}; }
    cpu::Output output() { return {data(), dtype_}; }

  private:
    DType dtype_;
    std::vector<std::byte> storage_;
};

// The weights and the instruction's keys of one block.
struct BlockNumbers {
    explicit BlockNumbers(DType dtype)
        : projection(dtype, kWidth * kWidth),
          projection_by_head(dtype, kWidth * kWidth),
          keys(dtype, (kMaxText + 1) * kWidth),
          values(dtype, (kMaxText + 1) * kWidth),
          outputs(dtype, kMaxText * kHeads * kWidth) {}
    Numbers projection;  // packed; any numbers do
    Numbers projection_by_head;
    Numbers keys;
    Numbers values;
    Numbers outputs;
};

class Bench {
  public:
    Bench(DType dtype, std::size_t blocks)
        : dtype_(dtype),
          blocks_(blocks, BlockNumbers(dtype)),
          q_(dtype, kTokens * kWidth),
          attended_(dtype, kTokens * kWidth),
          proprio_output_(dtype, kHeads * kWidth),
          stream_(DType::f32, kTokens * kWidth),
          bias_(DType::f32, kWidth),
          scratch_(DType::f32, std::size_t{8} << 20) {}

    void compare(std::size_t text) {
        count_ = static_cast<std::int32_t>(text);
        std::vector<double> plain, folded;
        for (int sample = 0; sample < 25; ++sample) {
            plain.push_back(seconds([&](BlockNumbers& block) { run_plain(block); }));
            folded.push_back(seconds([&](BlockNumbers& block) { run_folded(block); }));
        }
        const double a = median(plain) * 1e3, b = median(folded) * 1e3;
        std::printf("%-5s %6zu %14.2f %14.2f %8.2f\n", dtype_ == DType::f32 ? "f32" : "bf16", text + 1, a, b, a / b);
    }

  private:
    void run_plain(BlockNumbers& block) {
        const cpu::Input proprio_key{block.keys.data(), dtype_}, proprio_value{block.values.data(), dtype_};
        run(execution(), cpu::CrossAttentionArgs{kTokens, kHeads, kHeadWidth, kMaxText, 1, 0.1F, q_.input(),
                                                 block.keys.input(), block.values.input(), bias_.floats(), &count_,
                                                 proprio_key, proprio_value, attended_.output()});
        run(execution(), cpu::LinearArgs{kTokens, kWidth, kWidth, attended_.input(), block.projection.data(),
                                         bias_.floats(), cpu::Activation::none, stream_.input(), stream_.output()});
    }
    void run_folded(BlockNumbers& block) {
        run(execution(), cpu::GroupedLinearArgs{1, kHeads, kHeadWidth, kWidth, block.values.input(),
                                                block.projection_by_head.data(), nullptr, proprio_output_.output()});
        run(execution(), cpu::CrossAttentionFoldedArgs{
                             kTokens, kHeads, kHeadWidth, kWidth, kMaxText, 1, 0.1F, q_.input(), block.keys.input(),
                             block.outputs.input(), bias_.floats(), &count_, block.keys.input(),
                             proprio_output_.input(), bias_.floats(), stream_.input(), stream_.output()});
    }
    template <class Body>
    double seconds(Body&& body) {
        const auto now = [] {
            timespec time{};
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
            return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
        };
        const double begin = now();
        for (BlockNumbers& block : blocks_) body(block);
        return now() - begin;
    }
    static double median(std::vector<double>& values) {
        std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
        return values[values.size() / 2];
    }
    cpu::Execution execution() { return {cpu::best_kernels(), &pool_, scratch_.data()}; }

    DType dtype_;
    std::vector<BlockNumbers> blocks_;
    Numbers q_, attended_, proprio_output_, stream_, bias_, scratch_;
    cpu::ThreadPool pool_{1};
    std::int32_t count_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    const std::size_t blocks = argc > 1 ? static_cast<std::size_t>(std::max(std::atoi(argv[1]), 1)) : 25;
    std::printf("%zu blocks, %zu tokens, %zu heads of %zu; ms of processor time, one thread, %s\n", blocks, kTokens,
                kHeads, kHeadWidth, cpu::level_name(cpu::best_level()));
    std::printf("%-5s %6s %14s %14s %8s\n", "dtype", "keys", "attention + o", "folded", "ratio");
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Bench bench(dtype, blocks);
        for (const std::size_t text : {21, 32, 39, 64, 128}) bench.compare(text);
    }
    return 0;
}
