// SPDX-License-Identifier: Apache-2.0
//
// Times one operation at a time and prints what it reaches of this machine's peak.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu.hpp"
#include "figures.hpp"
#include "peak.hpp"

namespace bench {

namespace cpu = lightwam::cpu;
using cpu::DType;

// 64-byte aligned memory, filled with small numbers in the given dtype.
class Block {
  public:
    Block(DType dtype, std::size_t count) : dtype_(dtype), bytes_(count * size_of(dtype)) {
        storage_.resize(bytes_ + 64);
        for (std::size_t i = 0; i < count; ++i) {
            const float value = static_cast<float>((i * 7919) % 1009) / 1009.0F - 0.5F;
            std::uint32_t bits;
            std::memcpy(&bits, &value, 4);
            if (dtype == DType::f32) std::memcpy(data() + i * 4, &bits, 4);
            const auto half = static_cast<std::uint16_t>(bits >> 16U);
            if (dtype == DType::bf16) std::memcpy(data() + i * 2, &half, 2);
            if (dtype == DType::i8) data()[i] = static_cast<std::byte>(static_cast<std::int8_t>(value * 254.0F));
        }
    }
    std::byte* data() {
        const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
        return storage_.data() + (64 - address % 64) % 64;
    }
    float* floats() { return reinterpret_cast<float*>(data()); }
    cpu::Input input() { return {data(), dtype_}; }
    cpu::Output output() { return {data(), dtype_}; }

  private:
    DType dtype_;
    std::size_t bytes_;
    std::vector<std::byte> storage_;
};

inline const char* name_of(DType dtype) { return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "i8"; }

inline double seconds_of(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Options {
    int threads = 1;
    cpu::Level level = cpu::best_level();
    std::string only;
    std::string json;  // file to write, none if empty
};

class Bench {
  public:
    explicit Bench(const Options& options)
        : options_(options), pool_(options.threads), kernels_(cpu::kernels_of(options.level)) {
        if (kernels_ == nullptr) throw std::invalid_argument("this CPU does not run that level");
        for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
            peak_[dtype] = peak::flops(options.level, dtype) * options.threads;
        }
        bandwidth_ = peak::read_bandwidth(pool_);
        std::printf("level %s, %d threads; peak f32 %.0f, bf16 %.0f, i8 %.0f GFLOP/s; memory %.1f GB/s\n\n",
                    cpu::level_name(options.level), options.threads, peak_[DType::f32] / 1e9, peak_[DType::bf16] / 1e9,
                    peak_[DType::i8] / 1e9, bandwidth_ / 1e9);
        std::printf("%-46s %-5s %10s %10s %7s %8s %7s\n", "operation", "dtype", "us", "GFLOP/s", "share", "GB/s",
                    "share");
    }

    const cpu::KernelTable& kernels() const { return *kernels_; }
    int threads() const { return options_.threads; }
    bool wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }
    cpu::ThreadPool& pool() { return pool_; }

    Block packed(const cpu::WeightSource& source) {
        Block weight(source.dtype, source.groups * source.rows * source.taps * source.depth);
        Block destination(DType::i8, packed_bytes(*kernels_, source));
        cpu::WeightSource filled = source;
        filled.data = weight.data();
        pack(*kernels_, pool_, filled, destination.data());
        return destination;
    }

    // `operations` floating-point operations, `bytes` read and written at least once.
    template <class Args>
    void time(const std::string& name, DType dtype, const Args& args, double operations, double bytes) {
        time_ways<Args>({{name, args}}, dtype, operations, bytes);
    }

    // Several ways to the same result, sample by sample in turn, so that the machine's moods meet all alike. The
    // operations are those of the definition, whatever a way saves.
    template <class Args>
    void time_ways(const std::vector<std::pair<std::string, Args>>& ways, DType dtype, double operations,
                   double bytes) {
        std::size_t scratch = 0;
        for (const auto& [name, args] : ways) {
            if constexpr (requires { scratch_bytes(*kernels_, 1, args); }) {
                scratch = std::max(scratch, scratch_bytes(*kernels_, options_.threads, args));
            }
        }
        Block block(DType::f32, scratch / 4 + 1);
        const cpu::Execution execution{kernels_, &pool_, block.data()};
        const clockid_t clock = options_.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
        const auto sample = [&](const Args& args, int runs) {
            const double begin = seconds_of(clock);
            for (int i = 0; i < runs; ++i) run(execution, args);
            return (seconds_of(clock) - begin) / runs;
        };
        int runs = 1;
        while (runs < (1 << 20) && sample(ways.front().second, runs) * runs < 1e-3) runs *= 2;
        std::vector<std::vector<double>> seconds(ways.size());
        const auto start = std::chrono::steady_clock::now();
        const auto wanted = std::chrono::milliseconds(400 * ways.size());
        while (seconds.front().size() < 5 || std::chrono::steady_clock::now() - start < wanted) {
            for (std::size_t i = 0; i < ways.size(); ++i) seconds[i].push_back(sample(ways[i].second, runs));
        }
        for (std::size_t i = 0; i < ways.size(); ++i) {
            std::sort(seconds[i].begin(), seconds[i].end());
            print(ways[i].first, dtype, seconds[i][seconds[i].size() / 2], operations, bytes);
            const double peak = peak_[dtype];
            figures_.push_back({ways[i].first, name_of(dtype), std::move(seconds[i]), operations, peak});
        }
    }

    // Everything measured so far, to the file that was named.
    void write_json() const {
        if (options_.json.empty()) return;
        figures::write(options_.json, std::string("lightwam-") + cpu::level_name(options_.level), options_.threads,
                       figures_);
    }

  private:
    void print(const std::string& name, DType dtype, double median, double operations, double bytes) const {
        std::printf("%-46s %-5s %10.1f %10.1f %6.1f%% %8.1f %6.1f%%\n", name.c_str(), name_of(dtype), median * 1e6,
                    operations / median / 1e9, 100 * operations / median / peak_.at(dtype), bytes / median / 1e9,
                    100 * bytes / median / bandwidth_);
    }

    Options options_;
    cpu::ThreadPool pool_;
    const cpu::KernelTable* kernels_;
    std::map<DType, double> peak_;  // operations a second
    double bandwidth_ = 0.0;
    std::vector<figures::Figure> figures_;
};

}  // namespace bench
