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

#if defined(__x86_64__)
#define LIGHTWAM_ON_X86(table) &table
#else
#define LIGHTWAM_ON_X86(table) nullptr
#endif

struct Entry {
    Level level;
    const char* name;
    const KernelTable* table;
};

constexpr Entry kEntries[] = {
    {Level::portable, "portable", &kPortableTable},
    {Level::avx2, "avx2", LIGHTWAM_ON_X86(kAvx2Table)},
    {Level::avx2_vnni, "avx2_vnni", LIGHTWAM_ON_X86(kAvx2VnniTable)},
    {Level::avx512, "avx512", LIGHTWAM_ON_X86(kAvx512Table)},
    {Level::avx512_vnni, "avx512_vnni", LIGHTWAM_ON_X86(kAvx512VnniTable)},
    {Level::avx512_bf16, "avx512_bf16", LIGHTWAM_ON_X86(kAvx512Bf16Table)},
};

const Entry& entry(Level level) noexcept {
    for (const Entry& each : kEntries)
        if (each.level == level) return each;
    return kEntries[0];
}

}  // namespace

const char* level_name(Level level) noexcept { return entry(level).name; }

Level best_level() noexcept {
    Level best = Level::portable;
    for (const Level level : kLevels) {
        if (runs_here(level)) best = level;
    }
    return best;
}

const KernelTable* kernels_of(Level level) noexcept { return runs_here(level) ? entry(level).table : nullptr; }

const KernelTable* best_kernels() noexcept { return entry(best_level()).table; }

}  // namespace lightwam::cpu
