// SPDX-License-Identifier: Apache-2.0
//
// quantize_rows and the linear of 8-bit integers: sums against 64-bit integers, numbers against double.
#include <algorithm>
#include <limits>

#include "check.hpp"

namespace cpu = lightwam::cpu;
using check::Buffer;
using check::DType;
using cpu::Activation;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Factors of a product. Rows 0 and 1 of x are the extremes, -128 and 127 throughout; so is a row of the weight.
struct Factors {
    Factors(std::size_t row_count, std::size_t k_count, std::size_t column_count)
        : rows(row_count),
          depth(k_count),
          columns(column_count),
          x(Buffer::random(DType::i8, rows * depth, 1, 128.0)),
          weight(Buffer::random(DType::i8, columns * depth, 2, 128.0)),
          x_scale(DType::f32, rows),
          weight_scale(DType::f32, columns),
          x_zero(rows) {
        check::Random random(3);
        for (std::size_t r = 0; r < rows; ++r) {
            x_scale.set(r, 0.01 + 0.001 * (random() + 1.0));
            x_zero[r] = static_cast<std::int32_t>(random() * 128.0);
            if (r > 1) continue;
            for (std::size_t k = 0; k < depth; ++k) x.set(r * depth + k, r == 0 ? -128 : 127);
            x_zero[r] = r == 0 ? 127 : -128;
        }
        for (std::size_t n = 0; n < columns; ++n) weight_scale.set(n, 0.001 + 0.0001 * (random() + 1.0));
        for (std::size_t k = 0; k < depth; ++k) weight.set(k, 127);
    }

    double sum(std::size_t r, std::size_t n) const {
        std::int64_t total = 0;
        for (std::size_t k = 0; k < depth; ++k) {
            total += (static_cast<std::int64_t>(x[r * depth + k]) - x_zero[r]) *
                     static_cast<std::int64_t>(weight[n * depth + k]);
        }
        return static_cast<double>(total);
    }
    cpu::LinearArgs args(Buffer& y) {
        cpu::LinearArgs a;
        a.rows = rows;
        a.depth = depth;
        a.columns = columns;
        a.x = x.input();
        a.y = y.output();
        a.quantisation = {x_scale.floats(), x_zero.data(), weight_scale.floats()};
        return a;
    }
    cpu::WeightSource source() const { return {weight.data(), DType::i8, DType::i8, 1, columns, 1, depth}; }

    std::size_t rows, depth, columns;
    Buffer x, weight, x_scale, weight_scale;
    std::vector<std::int32_t> x_zero;
};

std::string shape(const char* what, const Factors& f) {
    return std::string(what) + " " + std::to_string(f.rows) + "x" + std::to_string(f.depth) + "x" +
           std::to_string(f.columns);
}

// With scales of 1 the output is the integer sum, rounded to f32 once: no other error at all is allowed.
void test_sums_are_exact(std::size_t rows, std::size_t depth, std::size_t columns) {
    Factors f(rows, depth, columns);
    for (std::size_t r = 0; r < rows; ++r) f.x_scale.set(r, 1.0);
    for (std::size_t n = 0; n < columns; ++n) f.weight_scale.set(n, 1.0);
    Buffer y(DType::f32, rows * columns);
    std::vector<double> reference(rows * columns);
    for (std::size_t i = 0; i < reference.size(); ++i)
        reference[i] = static_cast<float>(f.sum(i / columns, i % columns));
    Buffer packed;
    check::op(shape("i8 sums", f), f.args(y), y, reference, 0.0,
              [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LinearArgs& a, Buffer&) {
                  packed = check::packed(kernels, pool, f.source());
                  a.weight = reinterpret_cast<const std::byte*>(packed.data());
              });
}

void test_linear(std::size_t rows, std::size_t depth, std::size_t columns, DType y_dtype, Activation activation,
                 bool in_place) {
    Factors f(rows, depth, columns);
    Buffer bias = Buffer::random(DType::f32, columns, 4);
    const Buffer residual = Buffer::random(in_place ? y_dtype : DType::f32, rows * columns, 5);
    Buffer y(y_dtype, rows * columns);
    std::vector<double> reference(rows * columns);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t n = 0; n < columns; ++n) {
            const double value = f.x_scale[r] * f.weight_scale[n] * f.sum(r, n) + bias[n];
            reference[r * columns + n] = check::activate(value, activation) + residual[r * columns + n];
        }
    }
    cpu::LinearArgs args = f.args(y);
    args.bias = bias.floats();
    args.activation = activation;
    Buffer packed;
    const auto prepare = [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LinearArgs& a, Buffer& out) {
        packed = check::packed(kernels, pool, f.source());
        a.weight = reinterpret_cast<const std::byte*>(packed.data());
        a.residual = in_place ? out.input() : residual.input();
        if (in_place) std::memcpy(out.data(), residual.data(), rows * columns * size_of(y_dtype));
    };
    // f32: the conversion of the sum, two scales, bias, residual: a few roundings. bf16: one of 2^-9.
    const double limit = y_dtype == DType::f32 ? 1e-6 : 5e-3;
    check::op(shape("i8 linear", f) + "->" + check::name(y_dtype), args, y, reference, limit, prepare);
}

// Every group has a weight of its own, and every group of a row a scale and a zero point.
void test_grouped(std::size_t rows, std::size_t groups, std::size_t depth, std::size_t columns, DType y_dtype) {
    Factors f(rows * groups, depth, groups * columns);
    Buffer bias = Buffer::random(DType::f32, groups * columns, 4);
    Buffer y(y_dtype, rows * groups * columns);
    std::vector<double> reference(rows * groups * columns);
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const std::size_t n = i % (groups * columns);
        const std::size_t r = i / (groups * columns) * groups + n / columns;
        reference[i] = f.x_scale[r] * f.weight_scale[n] * f.sum(r, n) + bias[n];
    }
    cpu::LinearArgs args;
    args.rows = rows;
    args.groups = groups;
    args.depth = depth;
    args.columns = columns;
    args.x = f.x.input();
    args.bias = bias.floats();
    args.y = y.output();
    args.quantisation = {f.x_scale.floats(), f.x_zero.data(), f.weight_scale.floats()};
    Buffer packed;
    const std::string what = "i8 grouped " + std::to_string(rows) + "x" + std::to_string(groups) + "x" +
                             std::to_string(depth) + "x" + std::to_string(columns) + "->" + check::name(y_dtype);
    check::op(what, args, y, reference, y_dtype == DType::f32 ? 1e-6 : 5e-3,
              [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LinearArgs& a, Buffer&) {
                  packed =
                      check::packed(kernels, pool, {f.weight.data(), DType::i8, DType::i8, groups, columns, 1, depth});
                  a.weight = reinterpret_cast<const std::byte*>(packed.data());
              });
}

struct Quantised {
    Quantised(const Buffer& source, std::size_t row_count, std::size_t column_count, const cpu::KernelTable& kernels,
              cpu::ThreadPool& pool)
        : rows(row_count), columns(column_count), y(DType::i8, rows * columns), scale(DType::f32, rows), zero(rows) {
        run(cpu::Execution{&kernels, &pool, nullptr},
            cpu::QuantizeRowsArgs{rows, columns, source.input(), reinterpret_cast<std::int8_t*>(y.data()),
                                  scale.floats(), zero.data()});
        check::that(y.guards_hold() && scale.guards_hold(), "quantize_rows wrote outside its outputs");
    }
    bool same_bits(const Quantised& other) const {
        return y.same_bits(other.y) && scale.same_bits(other.scale) && zero == other.zero;
    }
    std::size_t rows, columns;
    Buffer y, scale;
    std::vector<std::int32_t> zero;
};

// engine-format.md, section 4.1, in double. Quotients may be products with the reciprocal: one step is allowed.
void check_row(const Buffer& x, const Quantised& q, std::size_t r, const std::string& where) {
    double low = 0.0, high = 0.0;
    for (std::size_t k = 0; k < q.columns; ++k) {
        low = std::min(low, x[r * q.columns + k]);
        high = std::max(high, x[r * q.columns + k]);
    }
    double scale = (high - low) / 255.0;
    if (scale < static_cast<double>(std::numeric_limits<float>::min())) scale = 1.0;
    check::that(std::abs(q.scale[r] - scale) <= 1e-6 * scale, where + ": scale");
    const double zero = std::clamp(std::nearbyint(-128.0 - low / scale), -128.0, 127.0);
    check::that(std::abs(q.zero[r] - zero) <= 1.0, where + ": zero");
    for (std::size_t k = 0; k < q.columns; ++k) {
        const double value = x[r * q.columns + k];
        const double expected = std::clamp(std::nearbyint(value / scale) + q.zero[r], -128.0, 127.0);
        const double got = q.y[r * q.columns + k];
        check::that(std::abs(got - expected) <= 1.0, where + ": y");
        const double step = got > -128.0 && got < 127.0 ? 0.501 : 1.001;
        check::that(std::abs(scale * (got - q.zero[r]) - value) <= step * scale, where + ": back to a number");
    }
}

template <class Body>
void at_every_level(Body&& body) {
    static cpu::ThreadPool pools[] = {cpu::ThreadPool(1), cpu::ThreadPool(2)};
    for (const cpu::Level level : check::levels()) body(*cpu::kernels_of(level), pools, cpu::level_name(level));
}

void test_quantize(DType dtype, std::size_t rows, std::size_t columns) {
    Buffer x = Buffer::random(dtype, rows * columns, 6, 3.0);
    for (std::size_t k = 0; k < columns; ++k) {  // one sign only, an outlier
        if (rows > 1) x.set(k, std::abs(x[k]) + 1.0);
        if (rows > 2) x.set(columns + k, -std::abs(x[columns + k]) - 1.0);
    }
    if (rows > 3) x.set(3 * columns, 1e6);
    at_every_level([&](const cpu::KernelTable& kernels, cpu::ThreadPool(&pools)[2], const char* level) {
        const Quantised q(x, rows, columns, kernels, pools[0]);
        const std::string where = std::string("quantize_rows ") + std::to_string(rows) + "x" + std::to_string(columns) +
                                  " " + check::name(dtype) + " " + level;
        for (std::size_t r = 0; r < rows; ++r) check_row(x, q, r, where);
        check::that(q.same_bits(Quantised(x, rows, columns, kernels, pools[1])), where + ": bits differ");
    });
}

// Rows of one value: zeros, numbers whose range has no normal scale, and large ones.
void test_quantize_limits() {
    const double values[] = {0.0, -0.0, 1e-45, -1e-38, 3e-36, 1.0, -1.0, 3e38, -3e38};
    const std::size_t rows = std::size(values), columns = 37;
    Buffer x(DType::f32, rows * columns);
    for (std::size_t i = 0; i < rows * columns; ++i) x.set(i, i % columns == 5 ? values[i / columns] : 0.0);
    at_every_level([&](const cpu::KernelTable& kernels, cpu::ThreadPool(&pools)[2], const char* level) {
        const Quantised q(x, rows, columns, kernels, pools[0]);
        for (std::size_t r = 0; r < rows; ++r) check_row(x, q, r, std::string("limits ") + level);
    });
}

// A row that is not finite, or whose range is not, makes all its outputs not finite and no other row's.
void test_bad_rows(DType dtype, Activation activation) {
    const std::size_t rows = 12, depth = 45, columns = 50;
    Buffer x = Buffer::random(dtype, rows * depth, 7);
    x.set(3 * depth + 44, kNaN);
    x.set(5 * depth, kInfinity);
    x.set(7 * depth + 20, -kInfinity);
    x.set(9 * depth + 1, 3e38);
    x.set(9 * depth + 2, -3e38);
    Factors f(rows, depth, columns);
    Buffer y(dtype, rows * columns);
    at_every_level([&](const cpu::KernelTable& kernels, cpu::ThreadPool(&pools)[2], const char* level) {
        const Quantised q(x, rows, depth, kernels, pools[1]);
        const Buffer packed = check::packed(kernels, pools[1], f.source());
        Quantised mine = q;
        cpu::LinearArgs a = f.args(y);
        a.x = mine.y.input();
        a.activation = activation;
        a.quantisation = {mine.scale.floats(), mine.zero.data(), f.weight_scale.floats()};
        a.weight = reinterpret_cast<const std::byte*>(packed.data());
        y.poison();
        Buffer scratch(DType::f32, scratch_bytes(kernels, 2, a) / 4, 0);
        run({&kernels, &pools[1], reinterpret_cast<std::byte*>(scratch.data())}, a);
        for (std::size_t i = 0; i < rows * columns; ++i) {
            const std::size_t r = i / columns;
            const bool bad = r == 3 || r == 5 || r == 7 || r == 9;
            check::that(std::isfinite(y[i]) != bad, std::string("bad rows ") + level + " row " + std::to_string(r));
        }
    });
}

}  // namespace

int main() {
    const std::size_t shapes[][3] = {{1, 1, 1},   {1, 300, 130}, {2, 7, 5},    {5, 33, 17},   {8, 64, 48},
                                     {9, 66, 49}, {13, 31, 97},  {32, 129, 7}, {67, 51, 200}, {403, 12, 50}};
    for (const auto& s : shapes) {
        test_sums_are_exact(s[0], s[1], s[2]);
        test_linear(s[0], s[1], s[2], DType::f32, Activation::none, true);
        test_linear(s[0], s[1], s[2], DType::bf16, Activation::gelu_tanh, false);
    }
    for (const Activation activation : check::kActivations) {
        test_linear(10, 20, 60, DType::bf16, activation, true);
        for (const DType dtype : check::kTypes) test_bad_rows(dtype, activation);
    }
    for (const DType dtype : check::kTypes) {
        test_grouped(1, 1, 33, 12, dtype);
        test_grouped(1, 12, 128, 200, dtype);
        test_grouped(17, 3, 24, 50, dtype);
        test_grouped(130, 4, 36, 70, dtype);  // several blocks of rows
        test_grouped(5, 2, 66311, 3, dtype);
    }
    test_sums_are_exact(11, 13824, 50);
    test_sums_are_exact(3, 54602, 3);  // summed in parts, whose equal lengths would cut a lane of four depths
    test_sums_are_exact(3, 66311, 3);  // the longest sum that fits
    for (const DType dtype : check::kTypes) {
        for (const std::size_t columns : {1, 3, 16, 50, 1536}) test_quantize(dtype, 5, columns);
        test_quantize(dtype, 1, 20000);
    }
    test_quantize_limits();
    return check::finish("quantised");
}
