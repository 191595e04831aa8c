// SPDX-License-Identifier: Apache-2.0
//
// Types shared by every CPU operation: data types, activations, what an execution needs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lightwam::cpu {

enum class DType : std::uint8_t { f32, bf16, i8 };

// How a convolution is computed, conv2d.hpp.
enum class ConvForm : std::uint8_t { direct, winograd };

enum class Activation : std::uint8_t { none, silu, gelu, gelu_tanh };

// bfloat16 is stored as its 16 bits.
using bf16_bits = std::uint16_t;

constexpr std::size_t size_of(DType dtype) noexcept { return dtype == DType::f32 ? 4 : dtype == DType::bf16 ? 2 : 1; }

// A read-only row-major matrix [rows, columns] whose elements are f32 or bf16 (i8 where an operation says so). Rows
// follow each other without a gap.
struct Input {
    const void* data = nullptr;
    DType dtype = DType::f32;
};

struct Output {
    void* data = nullptr;
    DType dtype = DType::f32;
};

struct KernelTable;
class ThreadPool;

// What every operation runs with. `scratch` is 64-byte aligned and at least as large as the largest `scratch_bytes` of
// the operations that run with it; its content means nothing between two operations.
struct Execution {
    const KernelTable* kernels = nullptr;
    ThreadPool* pool = nullptr;
    std::byte* scratch = nullptr;
};

}  // namespace lightwam::cpu
