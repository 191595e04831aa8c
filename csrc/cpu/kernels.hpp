// SPDX-License-Identifier: Apache-2.0
//
// The instruction-set levels, and which one this CPU runs. Results differ between levels by rounding only.
#pragma once

#include <cstdint>

namespace lightwam::cpu {

// In rising order. `portable` is plain vector code that every CPU runs (SSE2 on x86-64, NEON on aarch64). The
// `_vnni` levels multiply 8-bit integers natively, avx512_bf16 those and bf16 (every CPU with AVX512_BF16 has
// AVX512_VNNI).
enum class Level : std::uint8_t { portable, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16 };
constexpr Level kLevels[] = {Level::portable, Level::avx2,        Level::avx2_vnni,
                             Level::avx512,   Level::avx512_vnni, Level::avx512_bf16};

struct KernelTable;  // isa/kernel_table.hpp

// "portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16".
const char* level_name(Level level) noexcept;

// Highest level that this build holds and this CPU (and its operating system) runs.
Level best_level() noexcept;

// The kernels of a level, a constant that lives as long as the program; null when `level` cannot run here.
const KernelTable* kernels_of(Level level) noexcept;

// Kernels of best_level(). Never null.
const KernelTable* best_kernels() noexcept;

}  // namespace lightwam::cpu
