// SPDX-License-Identifier: Apache-2.0
#include "peak.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace peak {
namespace {

using lightwam::cpu::DType;
using lightwam::cpu::Level;
using Clock = std::chrono::steady_clock;

constexpr int kSteps = 100000;
constexpr int kChains = 12;

volatile float sink;

double CPU_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"), noinline)) double avx512_f32() {
    __m512 acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
    const __m512 a = _mm512_set1_ps(0.5F + sink);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], a, a);
    }
    for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_cvtss_f32(acc[0]) * 0.0F;
    return 2.0 * 16 * kChains * kSteps;
}

__attribute__((target("avx512f,avx512bf16,avx512vl"), noinline)) double avx512_bf16() {
    __m512 acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
    const __m512i bits = _mm512_set1_epi32(static_cast<int>(sink));
    __m512bh a;
    std::memcpy(&a, &bits, sizeof a);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], a, a);
    }
    for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_cvtss_f32(acc[0]) * 0.0F;
    return 4.0 * 16 * kChains * kSteps;
}

__attribute__((target("avx512f,avx512vnni"), noinline)) double avx512_i8() {
    __m512i acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);
    const __m512i a = _mm512_set1_epi32(static_cast<int>(sink) + 0x01010101);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], a, a);
    }
    for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    sink = static_cast<float>(_mm512_cvtsi512_si32(acc[0])) * 0.0F;
    return 8.0 * 16 * kChains * kSteps;
}

__attribute__((target("avx2,avxvnni"), noinline)) double avx2_i8() {
    __m256i acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_epi32(i);
    const __m256i a = _mm256_set1_epi32(static_cast<int>(sink) + 0x01010101);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = _mm256_dpbusd_avx_epi32(acc[i], a, a);
    }
    for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_epi32(acc[0], acc[i]);
    sink = static_cast<float>(_mm256_cvtsi256_si32(acc[0])) * 0.0F;
    return 8.0 * 8 * kChains * kSteps;
}

__attribute__((target("avx2,fma"), noinline)) double avx2_f32() {
    __m256 acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
    const __m256 a = _mm256_set1_ps(0.5F + sink);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], a, a);
    }
    for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    sink = _mm256_cvtss_f32(acc[0]) * 0.0F;
    return 2.0 * 8 * kChains * kSteps;
}
#endif

__attribute__((noinline)) double portable_f32() {
    typedef float v4 __attribute__((vector_size(16)));
    v4 acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = v4{} + static_cast<float>(i);
    const v4 a = v4{} + 0.5F + sink;
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = acc[i] * a + a;
    }
    for (int i = 1; i < kChains; ++i) acc[0] += acc[i];
    sink = acc[0][0] * 0.0F;
    return 2.0 * 4 * kChains * kSteps;
}

double operations(Level level, DType dtype) {
#if defined(__x86_64__)
    if (level == Level::avx512_bf16 && dtype == DType::bf16) return avx512_bf16();
    if (level >= Level::avx512_vnni && dtype == DType::i8) return avx512_i8();
    if (level == Level::avx2_vnni && dtype == DType::i8) return avx2_i8();
    if (level >= Level::avx512) return avx512_f32();
    if (level >= Level::avx2) return avx2_f32();
#endif
    static_cast<void>(level);
    static_cast<void>(dtype);
    return portable_f32();
}

}  // namespace

double flops(Level level, DType dtype) {
    double best = 0.0;
    for (int i = 0; i < 40; ++i) {
        const double begin = CPU_seconds();
        const double done = operations(level, dtype);
        best = std::max(best, done / (CPU_seconds() - begin));
    }
    return best;
}

double read_bandwidth(lightwam::cpu::ThreadPool& pool) {
    const std::size_t pieces = 128, piece = 1 << 18;  // 256 MiB of 8-byte words
    std::vector<std::uint64_t> block(pieces * piece, 1);
    std::atomic<std::uint64_t> total{0};
    double best = 0.0;
    for (int i = 0; i < 15; ++i) {
        const auto begin = Clock::now();
        pool.parallel_for(pieces, [&](std::size_t index, int) {
            std::uint64_t sum = 0;
            for (std::size_t k = 0; k < piece; ++k) sum += block[index * piece + k];
            total += sum;
        });
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        best = std::max(best, static_cast<double>(pieces * piece * 8) / seconds);
    }
    return best;
}

}  // namespace peak
