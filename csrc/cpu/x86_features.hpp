// SPDX-License-Identifier: Apache-2.0
//
// What an x86-64 CPU and its operating system have, asked of the CPU itself: the names that compilers know
// (__builtin_cpu_supports) differ from release to release.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace lightwam::cpu {

struct X86Features {
    bool avx2 = false;    // with FMA
    bool avx512 = false;  // F, BW, VL, DQ
    bool avx_vnni = false;
    bool avx512_vnni = false;
    bool avx512_bf16 = false;
};

inline X86Features x86_features() noexcept {
    const auto bits = [](unsigned value, unsigned mask) { return (value & mask) == mask; };
    X86Features features;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kFma = 1U << 12U, kOsxsave = 1U << 27U, kAvx = 1U << 28U;
    if (__get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) == 0 || !bits(ecx, kFma | kOsxsave | kAvx)) return features;

    // Which registers the operating system saves: 0x6 SSE and AVX, 0xe0 those of AVX-512.
    unsigned saved = 0, high = 0;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!bits(saved, 0x6U) || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return features;
    const unsigned last_leaf_of_7 = eax;
    constexpr unsigned kAvx2 = 1U << 5U, kF = 1U << 16U, kDq = 1U << 17U, kBw = 1U << 30U, kVl = 1U << 31U;
    features.avx2 = bits(ebx, kAvx2);
    const bool wide = features.avx2 && bits(saved, 0xe6U);
    features.avx512 = wide && bits(ebx, kF | kDq | kBw | kVl);
    features.avx512_vnni = wide && bits(ecx, 1U << 11U);
    if (last_leaf_of_7 >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
        features.avx_vnni = features.avx2 && bits(eax, 1U << 4U);
        features.avx512_bf16 = wide && bits(eax, 1U << 5U);
    }
    return features;
}

}  // namespace lightwam::cpu
#endif
