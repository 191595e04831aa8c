// SPDX-License-Identifier: Apache-2.0
//
// What one core can do at most: multiply-adds on registers only, and reading memory in order.
#pragma once

#include "cpu/cpu.hpp"

namespace peak {

// Multiplications and additions per second of one core with the instructions of `level`; bf16 and i8 without native
// products count as f32.
double flops(lightwam::cpu::Level level, lightwam::cpu::DType dtype);

// Bytes per second that all threads of the pool read together from a block much larger than the caches.
double read_bandwidth(lightwam::cpu::ThreadPool& pool);

}  // namespace peak
