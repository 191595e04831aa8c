// SPDX-License-Identifier: Apache-2.0
#include "kernels.hpp"

#include "isa/kernel_table.hpp"

namespace lightwam::cpu {
namespace {

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
bool runs_here(Level level) noexcept {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
    const bool vnni = __builtin_cpu_supports("avx512vnni") != 0;
    switch (level) {
        case Level::portable:
            return true;
        case Level::avx2:
            return avx2;
        case Level::avx2_vnni:
            return avx2 && __builtin_cpu_supports("avxvnni") != 0;
        case Level::avx512:
            return avx512;
        case Level::avx512_vnni:
            return avx512 && vnni;
        case Level::avx512_bf16:
            return avx512 && vnni && __builtin_cpu_supports("avx512bf16") != 0;
    }
    return false;
#else
    return level == Level::portable;
#endif
}

const KernelTable* table_of(Level level) noexcept {
    switch (level) {
#if defined(__x86_64__)
        case Level::avx2:
            return &kAvx2Table;
        case Level::avx2_vnni:
            return &kAvx2VnniTable;
        case Level::avx512:
            return &kAvx512Table;
        case Level::avx512_vnni:
            return &kAvx512VnniTable;
        case Level::avx512_bf16:
            return &kAvx512Bf16Table;
#endif
        default:
            return &kPortableTable;
    }
}

}  // namespace

const char* level_name(Level level) noexcept {
    switch (level) {
        case Level::portable:
            return "portable";
        case Level::avx2:
            return "avx2";
        case Level::avx2_vnni:
            return "avx2_vnni";
        case Level::avx512:
            return "avx512";
        case Level::avx512_vnni:
            return "avx512_vnni";
        case Level::avx512_bf16:
            return "avx512_bf16";
    }
    return "unknown";
}

Level best_level() noexcept {
    Level best = Level::portable;
    for (const Level level : kLevels) {
        if (runs_here(level)) best = level;
    }
    return best;
}

const KernelTable* kernels_of(Level level) noexcept { return runs_here(level) ? table_of(level) : nullptr; }

const KernelTable* best_kernels() noexcept { return table_of(best_level()); }

Level level_of(const KernelTable& kernels) noexcept { return kernels.level; }

bool has_native_bf16(const KernelTable& kernels) noexcept { return kernels.native_bf16; }

bool has_native_i8(const KernelTable& kernels) noexcept { return kernels.native_i8; }

}  // namespace lightwam::cpu
