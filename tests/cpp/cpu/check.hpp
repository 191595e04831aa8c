// SPDX-License-Identifier: Apache-2.0
//
// A small harness for the operations: guarded buffers, deterministic random numbers, comparison with a reference in
// double, every instruction-set level this machine has, several thread counts that must agree bit by bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/cpu.hpp"

namespace check {

using lightwam::cpu::DType;
using lightwam::cpu::Execution;
using lightwam::cpu::Input;
using lightwam::cpu::KernelTable;
using lightwam::cpu::Level;
using lightwam::cpu::Output;
using lightwam::cpu::ThreadPool;

inline int failures = 0;
inline int checks = 0;

inline void that(bool condition, const std::string& what) {
    ++checks;
    if (condition) return;
    ++failures;
    std::printf("FAILED %s\n", what.c_str());
}

inline int finish(const char* name) {
    std::printf("%s: %d checks, %d failed\n", name, checks, failures);
    return failures == 0 && checks > 0 ? 0 : 1;
}

// Uniform in [-1, 1), the same on every machine.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed * 2654435761U + 1) {}
    double operator()() {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<double>(state_ >> 11U) / static_cast<double>(1ULL << 52U) - 1.0;
    }

  private:
    std::uint64_t state_;
};

inline float from_bits(std::uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

// An independent rounding to bfloat16: the nearer of the two neighbours, the even one on a tie.
inline std::uint16_t to_bf16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (std::isnan(x)) return 0x7fc0;
    const std::uint32_t down = bits & 0xffff0000U;
    const std::uint32_t rest = bits & 0xffffU;
    const bool up = rest > 0x8000U || (rest == 0x8000U && (down & 0x10000U) != 0);
    return static_cast<std::uint16_t>((up ? down + 0x10000U : down) >> 16U);
}

// `count` elements with guard bytes on both sides, all NaN at first. The data begins `shift` elements after a 64-byte
// boundary, so that unaligned pointers are the rule.
class Buffer {
  public:
    Buffer() = default;
    Buffer(DType dtype, std::size_t count, std::size_t shift = 1) : dtype_(dtype), count_(count) {
        bytes_ = count * size_of(dtype);
        storage_.assign(bytes_ + 2 * kGuard + 128, kPattern);
        const auto address = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuard;
        offset_ = kGuard + (64 - address % 64) % 64 + shift * size_of(dtype);
        poison();
    }

    static Buffer random(DType dtype, std::size_t count, std::uint64_t seed, double size = 1.0) {
        Buffer buffer(dtype, count);
        Random random(seed);
        for (std::size_t i = 0; i < count; ++i) buffer.set(i, random() * size);
        return buffer;
    }

    DType dtype() const { return dtype_; }
    std::size_t count() const { return count_; }
    std::uint8_t* data() { return storage_.data() + offset_; }
    const std::uint8_t* data() const { return storage_.data() + offset_; }
    float* floats() { return reinterpret_cast<float*>(data()); }
    Input input() const { return {data(), dtype_}; }
    Output output() { return {data(), dtype_}; }

    void set(std::size_t i, double value) {
        if (dtype_ == DType::i8) {
            data()[i] = std::isnan(value) ? 0x55 : static_cast<std::uint8_t>(static_cast<std::int8_t>(value));
            return;
        }
        const auto f = static_cast<float>(value);
        if (dtype_ == DType::f32) {
            std::memcpy(data() + i * 4, &f, 4);
        } else {
            const std::uint16_t h = to_bf16(f);
            std::memcpy(data() + i * 2, &h, 2);
        }
    }
    double operator[](std::size_t i) const {
        if (dtype_ == DType::i8) return static_cast<std::int8_t>(data()[i]);
        if (dtype_ == DType::f32) {
            float f;
            std::memcpy(&f, data() + i * 4, 4);
            return f;
        }
        std::uint16_t h;
        std::memcpy(&h, data() + i * 2, 2);
        return from_bits(static_cast<std::uint32_t>(h) << 16U);
    }
    std::vector<double> values() const {
        std::vector<double> all(count_);
        for (std::size_t i = 0; i < count_; ++i) all[i] = (*this)[i];
        return all;
    }
    void poison() {
        for (std::size_t i = 0; i < count_; ++i) set(i, std::numeric_limits<double>::quiet_NaN());
    }
    bool guards_hold() const {
        for (std::size_t i = 0; i < storage_.size(); ++i) {
            const bool inside = i >= offset_ && i < offset_ + bytes_;
            if (!inside && storage_[i] != kPattern) return false;
        }
        return true;
    }
    bool same_bits(const Buffer& other) const { return std::memcmp(data(), other.data(), bytes_) == 0; }

  private:
    static constexpr std::size_t kGuard = 256;
    static constexpr std::uint8_t kPattern = 0xc5;
    DType dtype_ = DType::f32;
    std::size_t count_ = 0;
    std::size_t bytes_ = 0;
    std::size_t offset_ = 0;
    std::vector<std::uint8_t> storage_;
};

// Relative to the largest reference value. f32: sums of up to some thousand products. bf16: one rounding of the result
// is 2^-9 = 2e-3 of its size; attention and pooling also round probabilities and normalised tokens.
inline double tolerance(DType a, DType b = DType::f32) { return a == DType::f32 && b == DType::f32 ? 1e-5 : 1e-2; }

inline double relative_error(const Buffer& got, const std::vector<double>& reference) {
    double largest = 1e-30;
    double worst = 0.0;
    for (std::size_t i = 0; i < reference.size(); ++i) {
        largest = std::max(largest, std::abs(reference[i]));
        const double error = std::abs(got[i] - reference[i]);
        worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    return worst / largest;
}

inline std::vector<Level> levels() {
    std::vector<Level> all;
    for (const Level level : lightwam::cpu::kLevels) {
        if (lightwam::cpu::kernels_of(level) != nullptr) all.push_back(level);
    }
    return all;
}

inline const char* name(DType dtype) { return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "i8"; }

constexpr DType kTypes[] = {DType::f32, DType::bf16};

template <class Args>
std::size_t scratch_of(const KernelTable& kernels, int threads, const Args& args) {
    if constexpr (requires { scratch_bytes(kernels, threads, args); }) {
        return scratch_bytes(kernels, threads, args);
    } else {
        return 0;
    }
}

// Runs `args` at every level and with 1, 2 and 3 threads. prepare(kernels, pool, args, y) may pack weights and fill y.
template <class Args, class Prepare>
void op(const std::string& what, Args args, Buffer& y, const std::vector<double>& reference, double limit,
        Prepare&& prepare) {
    static ThreadPool pools[] = {ThreadPool(1), ThreadPool(2), ThreadPool(3)};
    for (const Level level : levels()) {
        const KernelTable& kernels = *lightwam::cpu::kernels_of(level);
        Buffer first;
        for (ThreadPool& pool : pools) {
            const std::string where =
                what + " [" + lightwam::cpu::level_name(level) + ", " + std::to_string(pool.threads()) + " threads]";
            y.poison();
            prepare(kernels, pool, args, y);
            const std::size_t bytes = scratch_of(kernels, pool.threads(), args);
            Buffer scratch(DType::bf16, (bytes + 1) / 2, 0);
            run(Execution{&kernels, &pool, reinterpret_cast<std::byte*>(scratch.data())}, args);
            that(y.guards_hold(), where + ": wrote outside its output");
            that(scratch.guards_hold(), where + ": wrote outside its scratch");
            const double error = relative_error(y, reference);
            that(error <= limit, where + ": relative error " + std::to_string(error));
            if (pool.threads() == 1) {
                first = y;
            } else {
                that(y.same_bits(first), where + ": bits differ from one thread's");
            }
        }
    }
}

template <class Args>
void op(const std::string& what, Args args, Buffer& y, const std::vector<double>& reference, double limit) {
    op(what, args, y, reference, limit, [](const KernelTable&, ThreadPool&, Args&, Buffer&) {});
}

// A packed weight in a guarded buffer.
inline Buffer packed(const KernelTable& kernels, ThreadPool& pool, const lightwam::cpu::WeightSource& source) {
    Buffer buffer(DType::bf16, lightwam::cpu::packed_bytes(kernels, source) / 2, 0);
    lightwam::cpu::pack(kernels, pool, source, reinterpret_cast<std::byte*>(buffer.data()));
    that(buffer.guards_hold(), "pack wrote outside its buffer");
    return buffer;
}

inline double activate(double x, lightwam::cpu::Activation activation) {
    using lightwam::cpu::Activation;
    switch (activation) {
        case Activation::silu:
            return x / (1.0 + std::exp(-x));
        case Activation::gelu:
            return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
        case Activation::gelu_tanh:
            return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::none:
            break;
    }
    return x;
}

constexpr lightwam::cpu::Activation kActivations[] = {lightwam::cpu::Activation::none, lightwam::cpu::Activation::silu,
                                                      lightwam::cpu::Activation::gelu,
                                                      lightwam::cpu::Activation::gelu_tanh};

}  // namespace check
