// SPDX-License-Identifier: Apache-2.0
#include "rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "isa/kernel_table.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

// Calls kernel(args, begin, end) over [0, count) in pieces of about 16 Ki elements; `width` elements belong to one
// index.
template <class Args>
void run_pieces(const Execution& execution, void (*kernel)(const Args&, std::size_t, std::size_t) noexcept,
                const Args& args, std::size_t count, std::size_t width) noexcept {
    constexpr std::size_t kElements = 16 * 1024;
    const std::size_t piece = std::max<std::size_t>(kElements / std::max<std::size_t>(width, 1), 1);
    execution.pool->parallel_for((count + piece - 1) / piece, [&](std::size_t item, int) {
        kernel(args, item * piece, std::min((item + 1) * piece, count));
    });
}

std::size_t columns_of(const ConcatArgs& a) noexcept {
    std::size_t columns = 0;
    for (std::size_t i = 0; i < a.count; ++i) columns += a.inputs[i].columns;
    return columns;
}

constexpr float kLargest = 448.0F;

float number(const float* x) noexcept { return *x; }
float number(const bf16_bits* x) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(*x) << 16U); }

bf16_bits upper_bits(float x) noexcept { return static_cast<bf16_bits>(std::bit_cast<std::uint32_t>(x) >> 16U); }

// Pattern -> bf16. Normal numbers: exponent and fraction move, and exponents count from 120 less.
std::array<bf16_bits, 256> table_of_f8() noexcept {
    std::array<bf16_bits, 256> table{};
    for (unsigned code = 0; code < 256; ++code) {
        const unsigned exponent = code >> 3U & 15U;
        const float mantissa = static_cast<float>(code & 7U) / 8.0F;
        const float magnitude =
            exponent == 0 ? std::ldexp(mantissa, -6) : std::ldexp(1.0F + mantissa, static_cast<int>(exponent) - 7);
        table[code] = upper_bits(code < 128 ? magnitude : -magnitude);
    }
    return table;
}

const std::array<bf16_bits, 256> kWideF8 = table_of_f8();

template <class T>
void quantize_row(const QuantizeRowsF8Args& a, std::size_t r) noexcept {
    constexpr float kSmallestNormal = 1.17549435e-38F;
    const T* x = static_cast<const T*>(a.x.data) + r * a.columns;
    float largest = 0.0F;
    float poison = 0.0F;  // NaN if the row holds NaN or infinity
    for (std::size_t k = 0; k < a.columns; ++k) {
        largest = std::max(largest, std::fabs(number(x + k)));
        poison += number(x + k) * 0.0F;
    }
    float scale = largest / kLargest;
    if (scale < kSmallestNormal) scale = 1.0F;
    const float inverse = 1.0F / scale;
    bf16_bits* y = a.y + r * a.columns;
    for (std::size_t k = 0; k < a.columns; ++k) y[k] = upper_bits(round_to_f8(number(x + k) * inverse));
    a.scale[r] = scale + poison;
}

void quantize_rows_f8(const QuantizeRowsF8Args& a, std::size_t begin, std::size_t end) noexcept {
    for (std::size_t r = begin; r < end; ++r) {
        if (a.x.dtype == DType::f32) {
            quantize_row<float>(a, r);
        } else {
            quantize_row<bf16_bits>(a, r);
        }
    }
}

}  // namespace

#define LIGHTWAM_ROW_KERNEL(name, arguments, count, width)               \
    void run(const Execution& execution, const arguments& a) noexcept {  \
        run_pieces(execution, execution.kernels->name, a, count, width); \
    }
#include "engine/ops.def"

float round_to_f8(float x) noexcept {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    const float magnitude = std::min(std::bit_cast<float>(bits & 0x7FFFFFFFU), kLargest);
    // Normal numbers keep three bits of their fraction. Below 2^-6 the step is 2^-9: that of f32 numbers beside 2^14.
    const std::uint32_t own = std::bit_cast<std::uint32_t>(magnitude);
    const std::uint32_t normal = (own + 0x7FFFFU + (own >> 20U & 1U)) & 0xFFF00000U;
    const float small = (magnitude + 0x1p14F) - 0x1p14F;
    const std::uint32_t rounded = magnitude < 0x1p-6F ? std::bit_cast<std::uint32_t>(small) : normal;
    return std::bit_cast<float>(rounded | (bits & 0x80000000U));
}

void widen_f8(const std::byte* f8, std::size_t count, bf16_bits* wide) noexcept {
    for (std::size_t i = 0; i < count; ++i) wide[i] = kWideF8[std::to_integer<std::size_t>(f8[i])];
}

void run(const Execution& execution, const QuantizeRowsF8Args& args) noexcept {
    run_pieces(execution, quantize_rows_f8, args, args.rows, args.columns);
}

}  // namespace lightwam::cpu
