// SPDX-License-Identifier: Apache-2.0
#include "kernels.hpp"

#include "isa/kernel_table.hpp"
#include "x86_features.hpp"

namespace lightwam::cpu {
namespace {

#if defined(__x86_64__)
// Not a static in the function below: a fork could inherit its guard while another thread holds it.
const X86Features kCpu = x86_features();
#endif

bool runs_here(Level level) noexcept {
#if defined(__x86_64__)
    switch (level) {
        case Level::portable:
            return true;
        case Level::avx2:
            return kCpu.avx2;
        case Level::avx2_vnni:
            return kCpu.avx2 && kCpu.avx_vnni;
        case Level::avx512:
            return kCpu.avx512;
        case Level::avx512_vnni:
            return kCpu.avx512 && kCpu.avx512_vnni;
        case Level::avx512_bf16:
            return kCpu.avx512 && kCpu.avx512_vnni && kCpu.avx512_bf16;
    }
    return false;
#else
    return level == Level::portable;
#endif
}

struct Entry {
    Level level;
    const char* name;
    const KernelTable* table;  // null: this build does not hold it (CMakeLists.txt)
};

constexpr Entry kEntries[] = {
    {Level::portable, "portable", &kPortableTable},
    {Level::avx2, "avx2", LIGHTWAM_TABLE_avx2},
    {Level::avx2_vnni, "avx2_vnni", LIGHTWAM_TABLE_avx2_vnni},
    {Level::avx512, "avx512", LIGHTWAM_TABLE_avx512},
    {Level::avx512_vnni, "avx512_vnni", LIGHTWAM_TABLE_avx512_vnni},
    {Level::avx512_bf16, "avx512_bf16", LIGHTWAM_TABLE_avx512_bf16},
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
        if (kernels_of(level) != nullptr) best = level;
    }
    return best;
}

const KernelTable* kernels_of(Level level) noexcept { return runs_here(level) ? entry(level).table : nullptr; }

const KernelTable* best_kernels() noexcept { return entry(best_level()).table; }

}  // namespace lightwam::cpu
