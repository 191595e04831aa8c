// SPDX-License-Identifier: Apache-2.0
//
// bench_cross_output: cross-attention up to the residual stream, at the sizes of the policies, as attention
// and output projection, and folded (with the projection of the proprio key, which each step needs). Every sample runs
// all blocks, each with weights and keys of its own, so that they come from memory as in a policy; the
// two forms take turns, so that they meet the same machine. CPU time of one thread, medians.
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

struct Sizes {
    const char* name;
    std::size_t blocks;
    std::size_t tokens;
    std::size_t heads;
    std::size_t head_width;
    std::size_t max_text;
    std::vector<std::size_t> text;  // rows in use, to compare
    std::size_t width() const { return heads * head_width; }
};

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
    BlockNumbers(DType dtype, const Sizes& s)
        : projection(dtype, s.width() * (s.width() + 64)),
          projection_by_head(dtype, s.width() * (s.width() + 64)),
          keys(dtype, (s.max_text + 1) * s.width()),
          values(dtype, (s.max_text + 1) * s.width()),
          outputs(dtype, s.max_text * s.heads * s.width()) {}
    Numbers projection;  // packed; any numbers do
    Numbers projection_by_head;
    Numbers keys;
    Numbers values;
    Numbers outputs;
};

class Bench {
  public:
    Bench(DType dtype, const Sizes& sizes)
        : dtype_(dtype),
          sizes_(sizes),
          blocks_(sizes.blocks, BlockNumbers(dtype, sizes)),
          q_(dtype, sizes.tokens * sizes.width()),
          attended_(dtype, sizes.tokens * sizes.width()),
          proprio_output_(dtype, sizes.heads * sizes.width()),
          stream_(DType::f32, sizes.tokens * sizes.width()),
          bias_(DType::f32, sizes.width()),
          scratch_(DType::f32, std::size_t{8} << 20) {}

    void compare(std::size_t text) {
        count_ = static_cast<std::int32_t>(text);
        std::vector<double> plain, folded;
        for (int sample = 0; sample < 25; ++sample) {
            plain.push_back(seconds([&](BlockNumbers& block) { run_plain(block); }));
            folded.push_back(seconds([&](BlockNumbers& block) { run_folded(block); }));
        }
        const double a = median(plain) * 1e3, b = median(folded) * 1e3;
        std::printf("%-5s %6zu %14.3f %14.3f %8.2f\n", dtype_ == DType::f32 ? "f32" : "bf16", text + 1, a, b, a / b);
    }

  private:
    cpu::CrossAttentionKeys keys(BlockNumbers& block) {
        return {sizes_.tokens,      sizes_.heads,   sizes_.head_width, sizes_.max_text,   1, 0.1F, q_.input(),
                block.keys.input(), bias_.floats(), &count_,           block.keys.input()};
    }
    void run_plain(BlockNumbers& block) {
        run(execution(),
            cpu::CrossAttentionArgs{keys(block), block.values.input(), block.values.input(), attended_.output()});
        run(execution(), cpu::LinearArgs{.rows = sizes_.tokens,
                                         .depth = sizes_.width(),
                                         .columns = sizes_.width(),
                                         .x = attended_.input(),
                                         .weight = block.projection.data(),
                                         .bias = bias_.floats(),
                                         .residual = stream_.input(),
                                         .y = stream_.output()});
    }
    void run_folded(BlockNumbers& block) {
        run(execution(), cpu::LinearArgs{.rows = 1,
                                         .depth = sizes_.head_width,
                                         .columns = sizes_.width(),
                                         .x = block.values.input(),
                                         .weight = block.projection_by_head.data(),
                                         .y = proprio_output_.output(),
                                         .groups = sizes_.heads});
        run(execution(),
            cpu::CrossAttentionFoldedArgs{keys(block), sizes_.width(), block.outputs.input(), proprio_output_.input(),
                                          bias_.floats(), stream_.input(), stream_.output()});
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
    Sizes sizes_;
    std::vector<BlockNumbers> blocks_;
    Numbers q_, attended_, proprio_output_, stream_, bias_, scratch_;
    cpu::ThreadPool pool_{1};
    std::int32_t count_ = 0;
};

}  // namespace

int main() {
    const Sizes all[] = {{"full size", 25, 392, 12, 128, 128, {21, 32, 39, 64, 128}},
                         {"nano", 5, 128, 6, 32, 24, {5, 15, 24}}};
    std::printf("ms of CPU time for all blocks, one thread, %s\n", cpu::level_name(cpu::best_level()));
    for (const Sizes& sizes : all) {
        std::printf("\n%s: %zu blocks, %zu tokens, %zu heads of %zu\n%-5s %6s %14s %14s %8s\n", sizes.name,
                    sizes.blocks, sizes.tokens, sizes.heads, sizes.head_width, "dtype", "keys", "attention + o",
                    "folded", "ratio");
        for (const DType dtype : {DType::f32, DType::bf16}) {
            Bench bench(dtype, sizes);
            for (const std::size_t text : sizes.text) bench.compare(text);
        }
    }
    return 0;
}
