// SPDX-License-Identifier: Apache-2.0
//
// 8-bit floats on the CPU: rounding to them, their numbers as bf16, and products of bf16 with scales, at every
// instruction-set level.
#include <algorithm>
#include <limits>

#include "check.hpp"
#include "cpu/rows.hpp"

using namespace lightwam;
using check::Buffer;
using cpu::DType;

namespace {

// The number behind a pattern, written out: sign, exponent from 2^-6 on, three bits of fraction.
double value_of(unsigned code) {
    const int exponent = static_cast<int>(code >> 3U & 15U);
    const double fraction = (code & 7U) / 8.0;
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1.0 + fraction, exponent - 7);
    return code < 128 ? magnitude : -magnitude;
}

// The nearest of all numbers, the one with an even pattern on a tie.
double nearest(double x) {
    unsigned best = 0;
    for (unsigned code = 1; code < 127; ++code) {
        const double nearer = std::abs(value_of(best) - std::abs(x)) - std::abs(value_of(code) - std::abs(x));
        if (nearer > 0 || (nearer == 0 && code % 2 == 0)) best = code;
    }
    return x < 0 ? -value_of(best) : value_of(best);
}

void test_rounding() {
    for (unsigned code = 0; code < 127; ++code) {
        const auto low = static_cast<float>(value_of(code));
        const auto tie = static_cast<float>((value_of(code) + value_of(std::min(code + 1, 126U))) / 2);
        for (const float at : {low, tie, std::nextafter(tie, 0.0F), std::nextafter(tie, 1000.0F)})
            for (const float x : {at, -at})
                check::that(static_cast<double>(cpu::round_to_f8(x)) == nearest(x), "rounding " + std::to_string(x));
    }
    check::Random random(1);
    for (int i = 0; i < 2000; ++i) {
        const auto x = static_cast<float>(random() * std::pow(2.0, i % 24 - 12));
        check::that(static_cast<double>(cpu::round_to_f8(x)) == nearest(x), "rounding " + std::to_string(x));
    }
    for (const float x : {449.0F, 1e30F, std::numeric_limits<float>::infinity()})
        check::that(cpu::round_to_f8(x) == 448.0F && cpu::round_to_f8(-x) == -448.0F, "beyond 448");
}

void test_widening() {
    std::byte codes[256];
    for (unsigned code = 0; code < 256; ++code) codes[code] = static_cast<std::byte>(code);
    cpu::bf16_bits wide[257];
    wide[256] = 0x1234;
    cpu::widen_f8(codes, 256, wide);
    for (unsigned code = 0; code < 256; ++code) {
        if ((code & 127U) == 127U) continue;  // NaN: files hold none
        const float made = check::from_bits(static_cast<std::uint32_t>(wide[code]) << 16U);
        check::that(static_cast<double>(made) == value_of(code) && std::signbit(made) == (code >= 128), "widened");
    }
    check::that(wide[256] == 0x1234, "widen_f8 wrote too far");
}

struct Rounded {
    Rounded(const Buffer& x, std::size_t rows, std::size_t columns, cpu::ThreadPool& pool)
        : y(DType::bf16, rows * columns), scale(DType::f32, rows) {
        run(cpu::Execution{cpu::best_kernels(), &pool, nullptr},
            cpu::QuantizeRowsF8Args{rows, columns, x.input(), reinterpret_cast<cpu::bf16_bits*>(y.data()),
                                    scale.floats()});
        check::that(y.guards_hold() && scale.guards_hold(), "quantize_rows wrote outside its outputs");
    }
    Buffer y, scale;
};

// engine-format.md, section 4.1, in double. A quotient may be a product with the reciprocal: one step beside a
// tie.
void test_rows(DType dtype) {
    const std::size_t rows = 9, columns = 203;
    const double sizes[] = {1.0, 1e-30, 1e30, 0.0, 1e-44, 3e38, 448.0, 1e-3, 7.0};
    Buffer x(dtype, rows * columns);
    check::Random random(2);
    for (std::size_t i = 0; i < rows * columns; ++i) x.set(i, random() * sizes[i / columns]);
    cpu::ThreadPool pools[] = {cpu::ThreadPool(1), cpu::ThreadPool(2)};
    const Rounded made(x, rows, columns, pools[0]);
    std::size_t differ = 0;
    for (std::size_t r = 0; r < rows; ++r) {
        double largest = 0.0;
        for (std::size_t k = 0; k < columns; ++k) largest = std::max(largest, std::abs(x[r * columns + k]));
        double scale = largest / 448.0;
        if (scale < static_cast<double>(std::numeric_limits<float>::min())) scale = 1.0;
        check::that(std::abs(made.scale[r] - scale) <= 1e-6 * scale, "scale");
        for (std::size_t k = 0; k < columns; ++k) {
            const double wanted = nearest(x[r * columns + k] / scale), got = made.y[r * columns + k];
            check::that(std::abs(got - wanted) <= std::max(std::abs(wanted) / 8, 0x1p-9), "y");
            if (got != wanted) ++differ;
        }
    }
    check::that(differ <= rows * columns / 100, std::to_string(differ) + " rows differ");
    const Rounded again(x, rows, columns, pools[1]);
    check::that(again.y.same_bits(made.y) && again.scale.same_bits(made.scale), "bits differ");
}

void test_rows_that_are_not_finite(DType dtype) {
    const std::size_t rows = 4, columns = 37;
    Buffer x = Buffer::random(dtype, rows * columns, 3);
    x.set(5, std::numeric_limits<double>::quiet_NaN());
    x.set(columns + 36, std::numeric_limits<double>::infinity());
    x.set(2 * columns, -std::numeric_limits<double>::infinity());
    cpu::ThreadPool pool(1);
    const Rounded made(x, rows, columns, pool);
    for (std::size_t r = 0; r < rows; ++r)
        check::that(std::isfinite(made.scale[r]) == (r == 3), "the scale of a row that is not finite");
}

// Numbers of e4m3, exact in bf16; products of bf16 are exact, their sums in f32.
Buffer grid(std::size_t count, std::uint64_t seed) {
    Buffer buffer = Buffer::random(DType::bf16, count, seed, 300.0);
    for (std::size_t i = 0; i < count; ++i)
        buffer.set(i, static_cast<double>(cpu::round_to_f8(static_cast<float>(buffer[i]))));
    return buffer;
}

void test_scaled_products(std::size_t rows, std::size_t groups, std::size_t depth, std::size_t columns, DType y_dtype) {
    Buffer x = grid(rows * groups * depth, 4), weight = grid(groups * columns * depth, 5);
    Buffer x_scale = Buffer::random(DType::f32, rows * groups, 6),
           weight_scale = Buffer::random(DType::f32, groups * columns, 7);
    Buffer y(y_dtype, rows * groups * columns);
    std::vector<double> reference(rows * groups * columns);
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const std::size_t n = i % (groups * columns), r = i / (groups * columns) * groups + n / columns;
        double sum = 0.0;
        for (std::size_t k = 0; k < depth; ++k) sum += x[r * depth + k] * weight[n * depth + k];
        reference[i] = sum * x_scale[r] * weight_scale[n];
    }
    Buffer packed;
    const cpu::Quantisation quantisation{x_scale.floats(), nullptr, weight_scale.floats()};
    const cpu::WeightSource source{weight.data(), DType::bf16, DType::bf16, groups, columns, 1, depth};
    const auto prepare = [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, auto& args, Buffer&) {
        packed = check::packed(kernels, pool, source);
        args.weight = reinterpret_cast<const std::byte*>(packed.data());
    };
    const std::string what = "f8 " + std::to_string(rows) + "x" + std::to_string(groups) + "x" + std::to_string(depth) +
                             "x" + std::to_string(columns) + "->" + check::name(y_dtype);
    const double limit = y_dtype == DType::f32 ? 2e-6 : 5e-3;  // f32 sums; one rounding to bf16
    if (groups == 1) {
        cpu::LinearArgs args;
        args.rows = rows;
        args.depth = depth;
        args.columns = columns;
        args.x = x.input();
        args.y = y.output();
        args.quantisation = quantisation;
        check::op(what, args, y, reference, limit, prepare);
    } else {
        cpu::LinearArgs args;
        args.rows = rows;
        args.groups = groups;
        args.depth = depth;
        args.columns = columns;
        args.x = x.input();
        args.y = y.output();
        args.quantisation = quantisation;
        check::op(what, args, y, reference, limit, prepare);
    }
}

}  // namespace

int main() {
    test_rounding();
    test_widening();
    for (const DType dtype : {DType::f32, DType::bf16}) {
        test_rows(dtype);
        test_rows_that_are_not_finite(dtype);
        test_scaled_products(1, 1, 203, 72, dtype);
        test_scaled_products(37, 1, 64, 50, dtype);
        test_scaled_products(9, 1, 33, 7, dtype);
        test_scaled_products(1, 12, 128, 40, dtype);
        test_scaled_products(17, 3, 33, 19, dtype);
    }
    return check::finish("float8");
}
