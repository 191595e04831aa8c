// SPDX-License-Identifier: Apache-2.0
//
// Normalisations, element by element and layout operations against plain loops in double.
#include "check.hpp"

namespace cpu = lightwam::cpu;
using check::Buffer;
using check::DType;
using cpu::Activation;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string types(const char* what, DType x, DType y) {
    return std::string(what) + " " + check::name(x) + "->" + check::name(y);
}

void test_layer_norm(std::size_t rows, std::size_t columns, DType x_type, DType y_type, bool affine) {
    Buffer x = Buffer::random(x_type, rows * columns, 1);
    // A mean far from zero: a one-pass variance would lose its digits.
    for (std::size_t i = 0; i < x.count(); ++i) x.set(i, x[i] + 20.0);
    Buffer weight = Buffer::random(DType::f32, columns, 2);
    Buffer bias = Buffer::random(DType::f32, columns, 3);
    std::vector<double> reference(rows * columns);
    for (std::size_t r = 0; r < rows; ++r) {
        double mean = 0.0;
        double variance = 0.0;
        for (std::size_t c = 0; c < columns; ++c) mean += x[r * columns + c] / static_cast<double>(columns);
        for (std::size_t c = 0; c < columns; ++c) {
            variance += std::pow(x[r * columns + c] - mean, 2) / static_cast<double>(columns);
        }
        for (std::size_t c = 0; c < columns; ++c) {
            const double n = (x[r * columns + c] - mean) / std::sqrt(variance + 1e-3);
            reference[r * columns + c] = affine ? n * weight[c] + bias[c] : n;
        }
    }
    Buffer y(y_type, rows * columns);
    cpu::LayerNormArgs args{
        rows,      columns, 1e-3F, x.input(), affine ? weight.floats() : nullptr, affine ? bias.floats() : nullptr,
        y.output()};
    check::op(types("layer_norm", x_type, y_type), args, y, reference, check::tolerance(y_type));
    if (x_type != y_type) return;
    args.x = y.input();
    check::op("layer_norm in place", args, y, reference, check::tolerance(y_type),
              [&](const cpu::KernelTable&, cpu::ThreadPool&, cpu::LayerNormArgs&, Buffer& out) {
                  std::memcpy(out.data(), x.data(), rows * columns * size_of(x_type));
              });
}

double root_mean_square(const Buffer& x, std::size_t row, std::size_t columns, double eps) {
    double sum = 0.0;
    for (std::size_t c = 0; c < columns; ++c) sum += x[row * columns + c] * x[row * columns + c];
    return std::sqrt(sum / static_cast<double>(columns) + eps);
}

void test_rms_norm(std::size_t rows, std::size_t columns, DType x_type, DType y_type, Activation activation) {
    const Buffer x = Buffer::random(x_type, rows * columns, 1, 3.0);
    Buffer weight = Buffer::random(DType::f32, columns, 2);
    std::vector<double> reference(rows * columns);
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const double n = x[i] / root_mean_square(x, i / columns, columns, 1e-6) * weight[i % columns];
        reference[i] = check::activate(n, activation);
    }
    Buffer y(y_type, rows * columns);
    check::op(types("rms_norm", x_type, y_type),
              cpu::RmsNormArgs{rows, columns, 1e-6F, x.input(), weight.floats(), activation, y.output()}, y, reference,
              check::tolerance(y_type));
}

void test_rms_norm_rope(std::size_t tokens, std::size_t heads, std::size_t width, DType x_type, DType y_type) {
    const std::size_t columns = heads * width;
    const Buffer x = Buffer::random(x_type, tokens * columns, 1, 2.0);
    Buffer weight = Buffer::random(DType::f32, columns, 2);
    Buffer cos = Buffer::random(DType::f32, tokens * width / 2, 3);
    Buffer sin = Buffer::random(DType::f32, tokens * width / 2, 4);
    std::vector<double> reference(tokens * columns);
    for (std::size_t s = 0; s < tokens; ++s) {
        const double root = root_mean_square(x, s, columns, 1e-6);
        for (std::size_t c = 0; c < columns; c += 2) {
            const double even = x[s * columns + c] / root * weight[c];
            const double odd = x[s * columns + c + 1] / root * weight[c + 1];
            const std::size_t angle = s * width / 2 + c % width / 2;
            reference[s * columns + c] = even * cos[angle] - odd * sin[angle];
            reference[s * columns + c + 1] = even * sin[angle] + odd * cos[angle];
        }
    }
    Buffer y(y_type, tokens * columns);
    cpu::RmsNormRopeArgs args{tokens,          heads,        width,        1e-6F,     x.input(),
                              weight.floats(), cos.floats(), sin.floats(), y.output()};
    check::op(types("rms_norm_rope", x_type, y_type), args, y, reference, check::tolerance(y_type));
    if (x_type != y_type) return;
    args.x = y.input();
    check::op("rms_norm_rope in place", args, y, reference, check::tolerance(y_type),
              [&](const cpu::KernelTable&, cpu::ThreadPool&, cpu::RmsNormRopeArgs&, Buffer& out) {
                  std::memcpy(out.data(), x.data(), tokens * columns * size_of(x_type));
              });
}

void test_mean_pool(std::size_t rows, std::size_t columns, DType x_type, DType y_type) {
    const Buffer x = Buffer::random(x_type, rows * columns, 1);
    std::vector<double> reference(columns);
    for (std::size_t i = 0; i < rows * columns; ++i) reference[i % columns] += x[i] / static_cast<double>(rows);
    Buffer y(y_type, columns);
    check::op(types("mean_pool", x_type, y_type), cpu::MeanPoolArgs{rows, columns, x.input(), y.output()}, y, reference,
              check::tolerance(y_type));
}

void test_add(std::size_t rows, std::size_t columns, DType a_type, DType b_type, DType y_type, int broadcast,
              bool subtract) {
    const bool broadcast_a = broadcast == 1;
    const bool broadcast_b = broadcast == 2;
    const Buffer a = Buffer::random(a_type, (broadcast_a ? 1 : rows) * columns, 1);
    const Buffer b = Buffer::random(b_type, (broadcast_b ? 1 : rows) * columns, 2);
    std::vector<double> reference(rows * columns);
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const double other = b[broadcast_b ? i % columns : i];
        reference[i] = a[broadcast_a ? i % columns : i] + (subtract ? -other : other);
    }
    Buffer y(y_type, rows * columns);
    check::op("add", cpu::AddArgs{rows, columns, subtract, broadcast_a, broadcast_b, a.input(), b.input(), y.output()},
              y, reference, check::tolerance(y_type));
}

void test_concat(DType y_type) {
    const std::size_t rows = 300;
    const std::size_t widths[] = {5, 64, 1, 33};
    std::vector<Buffer> inputs;
    std::vector<cpu::ConcatInput> list;
    for (std::size_t i = 0; i < 4; ++i) inputs.push_back(Buffer::random(check::kTypes[i % 2], rows * widths[i], i));
    for (std::size_t i = 0; i < 4; ++i) list.push_back({inputs[i].input(), widths[i]});
    std::vector<double> reference;
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t i = 0; i < 4; ++i) {
            for (std::size_t c = 0; c < widths[i]; ++c) reference.push_back(inputs[i][r * widths[i] + c]);
        }
    }
    Buffer y(y_type, reference.size());
    check::op("concat", cpu::ConcatArgs{rows, list.data(), list.size(), y.output()}, y, reference,
              check::tolerance(y_type));
}

void test_scale_shift_clamp(DType x_type, DType y_type, float low, float high) {
    const std::size_t rows = 70, columns = 7;
    Buffer x = Buffer::random(x_type, rows * columns, 1, 4.0);
    Buffer scale = Buffer::random(DType::f32, columns, 2);
    Buffer shift = Buffer::random(DType::f32, columns, 3);
    std::vector<double> reference(rows * columns);
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const double v = x[i] * scale[i % columns] + shift[i % columns];
        reference[i] = std::min(std::max(v, static_cast<double>(low)), static_cast<double>(high));
    }
    Buffer y(y_type, rows * columns);
    const cpu::ScaleShiftClampArgs args{rows,           columns, x.input(), scale.floats(),
                                        shift.floats(), low,     high,      y.output()};
    check::op(types("scale_shift_clamp", x_type, y_type), args, y, reference, check::tolerance(y_type));
    x.set(9, kNan);
    cpu::ThreadPool pool(1);
    for (const cpu::Level level : check::levels()) {
        run({cpu::kernels_of(level), &pool, nullptr}, args);
        check::that(std::isnan(y[9]) && !std::isnan(y[8]), "a clamp must keep NaN");
    }
}

void test_gripper_rule(DType type) {
    const std::size_t rows = 5, columns = 7;
    Buffer x = Buffer::random(type, rows * columns, 1);
    const double g[] = {0.0, 1.0, 0.5, 0.75, kNan};
    const double want[] = {1.0, -1.0, 0.0, -1.0, kNan};
    for (std::size_t r = 0; r < rows; ++r) x.set(r * columns + 6, g[r]);
    for (const cpu::Level level : check::levels()) {
        Buffer y(type, rows * columns);
        cpu::ThreadPool pool(2);
        run({cpu::kernels_of(level), &pool, nullptr}, cpu::GripperRuleArgs{rows, columns, 6, x.input(), y.output()});
        for (std::size_t i = 0; i < rows * columns; ++i) {
            const double expected = i % columns == 6 ? want[i / columns] : x[i];
            check::that(y[i] == expected || (std::isnan(y[i]) && std::isnan(expected)), "gripper_rule");
        }
        check::that(y.guards_hold(), "gripper_rule guards");
    }
}

// Every upper half of a float, with the lower halves around a tie: exact agreement with round to nearest even.
void test_cast_rounds_to_even() {
    const std::uint32_t lows[] = {0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffff};
    const std::size_t count = 0x10000;
    for (const std::uint32_t low : lows) {
        Buffer x(DType::f32, count);
        for (std::uint32_t high = 0; high < count; ++high) {
            const std::uint32_t bits = (high << 16U) | low;
            std::memcpy(x.data() + high * 4, &bits, 4);
        }
        for (const cpu::Level level : check::levels()) {
            Buffer y(DType::bf16, count);
            cpu::ThreadPool pool(2);
            run({cpu::kernels_of(level), &pool, nullptr}, cpu::CastArgs{count, x.input(), y.output()});
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < count; ++i) {
                std::uint16_t got;
                std::memcpy(&got, y.data() + i * 2, 2);
                const std::uint16_t want = check::to_bf16(static_cast<float>(x[i]));
                const bool both_nan = std::isnan(x[i]) && std::isnan(y[i]);
                // The bf16 instructions may flush denormals.
                const bool flushed = std::fpclassify(static_cast<float>(x[i])) == FP_SUBNORMAL && y[i] == 0.0;
                if (got != want && !both_nan && !flushed) ++wrong;
            }
            check::that(wrong == 0,
                        std::string("cast ") + cpu::level_name(level) + ": " + std::to_string(wrong) + " wrong");
        }
    }
}

void test_cast(std::size_t count, DType x_type, DType y_type) {
    const Buffer x = Buffer::random(x_type, count, 1);
    Buffer y(y_type, count);
    check::op(types("cast", x_type, y_type), cpu::CastArgs{count, x.input(), y.output()}, y, x.values(),
              check::tolerance(y_type));
}

void test_nchw_to_nhwc(DType x_type, DType y_type) {
    const std::size_t channels = 5, positions = 4000;
    const Buffer x = Buffer::random(x_type, channels * positions, 1);
    std::vector<double> reference(channels * positions);
    for (std::size_t i = 0; i < reference.size(); ++i) reference[i] = x[i % channels * positions + i / channels];
    Buffer y(y_type, channels * positions);
    check::op(types("nchw_to_nhwc", x_type, y_type), cpu::NchwToNhwcArgs{channels, positions, x.input(), y.output()}, y,
              reference, check::tolerance(y_type));
}

}  // namespace

int main() {
    for (const DType x : check::kTypes) {
        for (const DType y : check::kTypes) {
            for (const std::size_t columns : {1, 7, 16, 96, 193, 1536}) {
                test_layer_norm(3, columns, x, y, true);
                test_layer_norm(3, columns, x, y, false);
                test_rms_norm(3, columns, x, y, Activation::none);
                test_mean_pool(19, columns, x, y);
            }
            test_layer_norm(200, 192, x, y, true);
            test_rms_norm(1000, 24, x, y, Activation::silu);
            for (const std::size_t width : {2, 6, 16, 32, 128}) test_rms_norm_rope(17, 3, width, x, y);
            for (int broadcast = 0; broadcast < 3; ++broadcast) {
                for (const DType b : check::kTypes) {
                    test_add(30, 21, x, b, y, broadcast, false);
                    test_add(3, 6000, x, b, y, broadcast, true);
                }
            }
            test_scale_shift_clamp(x, y, -0.5F, 1.0F);
            test_scale_shift_clamp(x, y, -INFINITY, INFINITY);
            test_cast(40001, x, y);
            test_nchw_to_nhwc(x, y);
        }
        test_concat(x);
        test_gripper_rule(x);
    }
    test_cast_rounds_to_even();
    return check::finish("rows");
}
