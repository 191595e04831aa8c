// SPDX-License-Identifier: Apache-2.0
//
// Which instruction-set levels run here: what the CPU itself answers agrees with the compiler's library, and a level
// never runs without those that it builds on.
#include <string>

#include "check.hpp"
#include "cpu/isa/kernel_table.hpp"
#include "cpu/kernels.hpp"
#include "cpu/x86_features.hpp"

namespace cpu = lightwam::cpu;

int main() {
    check::that(cpu::kernels_of(cpu::Level::portable) != nullptr, "every CPU runs the portable level");
    check::that(cpu::best_kernels() == cpu::kernels_of(cpu::best_level()), "the best level is one that runs");
    for (const cpu::Level level : cpu::kLevels) {
        const cpu::KernelTable* table = cpu::kernels_of(level);
        check::that(table == nullptr || table->level == level, std::string("the table of ") + cpu::level_name(level));
        check::that(table == nullptr || level <= cpu::best_level(), "no level above the best one runs");
    }
#if defined(__x86_64__)
    const cpu::X86Features features = cpu::x86_features();
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
    check::that(features.avx2 == avx2 && features.avx512 == avx512, "AVX2 and AVX-512 as the compiler's library says");
    check::that(features.avx512_vnni == (__builtin_cpu_supports("avx512vnni") != 0), "AVX512_VNNI");
#if !defined(__clang__)  // clang 14 does not know these names
    check::that(features.avx_vnni == (__builtin_cpu_supports("avxvnni") != 0), "AVX-VNNI");
    check::that(features.avx512_bf16 == (__builtin_cpu_supports("avx512bf16") != 0), "AVX512_BF16");
#endif
#endif
    return check::finish("levels");
}
