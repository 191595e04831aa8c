// SPDX-License-Identifier: Apache-2.0
//
// linear, grouped_linear and conv2d against plain loops in double.
#include "check.hpp"

namespace cpu = lightwam::cpu;
using check::Buffer;
using check::DType;
using cpu::Activation;

namespace {

struct Dtypes {
    DType x, weight, y;
};
// x and weight as stored; an f32 product may widen bf16 weights.
constexpr Dtypes kDtypes[] = {{DType::f32, DType::f32, DType::f32},
                              {DType::f32, DType::bf16, DType::f32},
                              {DType::f32, DType::f32, DType::bf16},
                              {DType::bf16, DType::bf16, DType::bf16},
                              {DType::bf16, DType::bf16, DType::f32}};

void test_linear(std::size_t rows, std::size_t depth, std::size_t columns, const Dtypes& t, Activation activation,
                 bool extras, bool in_place) {
    const Buffer x = Buffer::random(t.x, rows * depth, 1);
    const Buffer weight = Buffer::random(t.weight, columns * depth, 2);
    Buffer bias = Buffer::random(DType::f32, columns, 3);
    const Buffer residual = Buffer::random(in_place ? t.y : DType::f32, rows * columns, 4);
    Buffer y(t.y, rows * columns);
    std::vector<double> reference(rows * columns);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t n = 0; n < columns; ++n) {
            double sum = extras ? bias[n] : 0.0;
            for (std::size_t k = 0; k < depth; ++k) sum += x[r * depth + k] * weight[n * depth + k];
            reference[r * columns + n] = check::activate(sum, activation) + (extras ? residual[r * columns + n] : 0.0);
        }
    }
    cpu::LinearArgs args;
    args.rows = rows;
    args.depth = depth;
    args.columns = columns;
    args.x = x.input();
    args.bias = extras ? bias.floats() : nullptr;
    args.activation = activation;
    args.y = y.output();
    Buffer packed;
    const auto prepare = [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LinearArgs& a, Buffer& out) {
        packed = check::packed(kernels, pool, {weight.data(), t.weight, t.x, 1, columns, 1, depth});
        a.weight = reinterpret_cast<const std::byte*>(packed.data());
        if (extras) a.residual = in_place ? out.input() : residual.input();
        if (in_place) std::memcpy(out.data(), residual.data(), rows * columns * size_of(t.y));
    };
    const std::string what = "linear " + std::to_string(rows) + "x" + std::to_string(depth) + "x" +
                             std::to_string(columns) + " " + check::name(t.x) + "," + check::name(t.weight) + "->" +
                             check::name(t.y) + " activation " + std::to_string(static_cast<int>(activation));
    check::op(what, args, y, reference, check::tolerance(t.y, t.x), prepare);
}

void test_grouped(std::size_t rows, std::size_t groups, std::size_t depth, std::size_t columns, const Dtypes& t) {
    const Buffer x = Buffer::random(t.x, rows * groups * depth, 1);
    const Buffer weight = Buffer::random(t.weight, groups * columns * depth, 2);
    Buffer bias = Buffer::random(DType::f32, groups * columns, 3);
    Buffer y(t.y, rows * groups * columns);
    std::vector<double> reference(rows * groups * columns);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t g = 0; g < groups; ++g) {
            for (std::size_t n = 0; n < columns; ++n) {
                double sum = bias[g * columns + n];
                for (std::size_t k = 0; k < depth; ++k) {
                    sum += x[(r * groups + g) * depth + k] * weight[(g * columns + n) * depth + k];
                }
                reference[(r * groups + g) * columns + n] = sum;
            }
        }
    }
    cpu::LinearArgs args;
    args.rows = rows;
    args.groups = groups;
    args.depth = depth;
    args.columns = columns;
    args.x = x.input();
    args.bias = bias.floats();
    args.y = y.output();
    Buffer packed;
    check::op("grouped_linear", args, y, reference, check::tolerance(t.y, t.x),
              [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LinearArgs& a, Buffer&) {
                  packed = check::packed(kernels, pool, {weight.data(), t.weight, t.x, groups, columns, 1, depth});
                  a.weight = reinterpret_cast<const std::byte*>(packed.data());
              });
}

std::vector<double> conv_reference(const cpu::Conv2dArgs& a, const Buffer& x, const Buffer& weight, const Buffer& bias,
                                   const Buffer& residual) {
    const std::size_t rows = out_height(a);
    const std::size_t columns = out_width(a);
    std::vector<double> reference(rows * columns * a.out_channels);
    for (std::size_t at = 0; at < reference.size(); ++at) {
        const std::size_t o = at % a.out_channels;
        const std::size_t ox = at / a.out_channels % columns;
        const std::size_t oy = at / a.out_channels / columns;
        double sum = bias[o];
        for (std::size_t ky = 0; ky < a.kernel_height; ++ky) {
            for (std::size_t kx = 0; kx < a.kernel_width; ++kx) {
                const auto iy = static_cast<long>(oy * a.stride + ky) - static_cast<long>(a.padding_top);
                const auto ix = static_cast<long>(ox * a.stride + kx) - static_cast<long>(a.padding_left);
                if (iy < 0 || ix < 0 || iy >= static_cast<long>(a.height) || ix >= static_cast<long>(a.width)) continue;
                const std::size_t pixel = static_cast<std::size_t>(iy) * a.width + static_cast<std::size_t>(ix);
                const std::size_t tap = (o * a.kernel_height + ky) * a.kernel_width + kx;
                for (std::size_t c = 0; c < a.in_channels; ++c) {
                    sum += x[pixel * a.in_channels + c] * weight[tap * a.in_channels + c];
                }
            }
        }
        reference[at] = check::activate(sum, a.activation) + residual[at];
    }
    return reference;
}

void test_conv(cpu::Conv2dArgs args, const Dtypes& t, bool in_place = false) {
    const std::size_t taps = args.kernel_height * args.kernel_width;
    const std::size_t count = out_height(args) * out_width(args) * args.out_channels;
    const Buffer x = Buffer::random(t.x, args.height * args.width * args.in_channels, 1);
    const Buffer weight = Buffer::random(t.weight, args.out_channels * taps * args.in_channels, 2);
    Buffer bias = Buffer::random(DType::f32, args.out_channels, 3);
    const Buffer residual = Buffer::random(in_place ? t.y : DType::bf16, count, 4);
    Buffer y(t.y, count);
    args.x = x.input();
    args.bias = bias.floats();
    args.residual = residual.input();
    args.y = y.output();
    Buffer packed;
    const std::string what = "conv2d " + std::to_string(args.height) + "x" + std::to_string(args.width) + " " +
                             std::to_string(args.in_channels) + "->" + std::to_string(args.out_channels) + " " +
                             check::name(t.x) + (args.form == cpu::ConvForm::winograd ? " winograd" : "");
    check::op(what, args, y, conv_reference(args, x, weight, bias, residual), check::tolerance(t.y, t.x),
              [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::Conv2dArgs& a, Buffer& out) {
                  if (in_place) {
                      a.residual = out.input();
                      std::memcpy(out.data(), residual.data(), count * size_of(t.y));
                  }
                  packed = check::packed(
                      kernels, pool,
                      {weight.data(), t.weight, t.x, 1, args.out_channels, taps, args.in_channels, args.form});
                  a.weight = reinterpret_cast<const std::byte*>(packed.data());
              });
}

cpu::Conv2dArgs conv(std::size_t height, std::size_t width, std::size_t in, std::size_t out, std::size_t kernel,
                     std::size_t stride, std::size_t before, std::size_t after) {
    cpu::Conv2dArgs a;
    a.height = height;
    a.width = width;
    a.in_channels = in;
    a.out_channels = out;
    a.kernel_height = a.kernel_width = kernel;
    a.stride = stride;
    a.padding_top = a.padding_left = before;
    a.padding_bottom = a.padding_right = after;
    a.activation = Activation::silu;
    return a;
}

cpu::Conv2dArgs winograd(std::size_t height, std::size_t width, std::size_t in, std::size_t out) {
    cpu::Conv2dArgs a = conv(height, width, in, out, 3, 1, 1, 1);
    a.form = cpu::ConvForm::winograd;
    return a;
}

// Form of a convolution of an f32 or bf16 map.
bool takes_winograd(cpu::Conv2dArgs a, DType dtype) {
    a.x.dtype = dtype;
    return conv_form(a) == cpu::ConvForm::winograd;
}

void test_form() {
    for (const DType dtype : check::kTypes) {
        check::that(takes_winograd(conv(224, 448, 96, 96, 3, 1, 1, 1), dtype), "3x3 takes the Winograd form");
        check::that(takes_winograd(conv(28, 56, 384, 384, 3, 1, 1, 1), dtype), "a small map too");
        check::that(!takes_winograd(conv(224, 448, 96, 96, 3, 2, 0, 1), dtype), "stride 2 does not");
        check::that(!takes_winograd(conv(56, 112, 96, 96, 1, 1, 0, 0), dtype), "1x1 does not");
        check::that(!takes_winograd(conv(224, 448, 3, 96, 3, 1, 1, 1), dtype), "an image does not");
        check::that(!takes_winograd(conv(128, 256, 96, 16, 3, 1, 1, 1), dtype), "fewer outputs than inputs do not");
        check::that(!takes_winograd(conv(5, 56, 96, 96, 3, 1, 1, 1), dtype), "five rows do not");
        check::that(takes_winograd(conv(64, 128, 16, 16, 3, 1, 1, 1), dtype) == (dtype == DType::f32),
                    "narrow maps do in f32 alone");
    }
}

// The activations over their whole range, through a product with one.
void test_activation_range(Activation activation) {
    const std::size_t count = 4001;
    Buffer x(DType::f32, count);
    std::vector<double> reference(count);
    for (std::size_t i = 0; i < count; ++i) {
        x.set(i, (static_cast<double>(i) - 2000.0) * 0.05);
        reference[i] = check::activate(x[i], activation);
    }
    Buffer one(DType::f32, 1);
    one.set(0, 1.0);
    Buffer y(DType::f32, count);
    cpu::LinearArgs args;
    args.rows = count;
    args.depth = args.columns = 1;
    args.x = x.input();
    args.activation = activation;
    args.y = y.output();
    Buffer packed;
    for (const cpu::Level level : check::levels()) {
        const cpu::KernelTable& kernels = *cpu::kernels_of(level);
        cpu::ThreadPool pool(1);
        packed = check::packed(kernels, pool, {one.data(), DType::f32, DType::f32, 1, 1, 1, 1});
        args.weight = reinterpret_cast<const std::byte*>(packed.data());
        Buffer scratch(DType::f32, scratch_bytes(kernels, 1, args) / 4, 0);
        run({&kernels, &pool, reinterpret_cast<std::byte*>(scratch.data())}, args);
        for (std::size_t i = 0; i < count; ++i) {
            // The far negative tails are tiny; what matters there is that they do not overshoot.
            const double limit = std::abs(x[i]) * (x[i] > -4.0 ? 2e-7 : 1e-9) + 1e-38;
            check::that(std::abs(y[i] - reference[i]) <= limit,
                        std::string("activation at ") + std::to_string(x[i]) + " " + cpu::level_name(level) +
                            " off by " + std::to_string((y[i] - reference[i]) * 1e9) + "e-9");
        }
    }
}

// A NaN or infinity in one row reaches that row's outputs and no other.
void test_nan_stays_in_its_row(DType dtype) {
    const std::size_t rows = 11, depth = 5, columns = 50;
    Buffer x = Buffer::random(dtype, rows * depth, 1);
    x.set(6 * depth + 4, std::numeric_limits<double>::quiet_NaN());
    const Buffer weight = Buffer::random(dtype, columns * depth, 2);
    for (const cpu::Level level : check::levels()) {
        for (const Activation activation : check::kActivations) {
            const cpu::KernelTable& kernels = *cpu::kernels_of(level);
            cpu::ThreadPool pool(2);
            const Buffer packed = check::packed(kernels, pool, {weight.data(), dtype, dtype, 1, columns, 1, depth});
            Buffer y(dtype, rows * columns);
            cpu::LinearArgs args;
            args.rows = rows;
            args.depth = depth;
            args.columns = columns;
            args.x = x.input();
            args.weight = reinterpret_cast<const std::byte*>(packed.data());
            args.activation = activation;
            args.y = y.output();
            Buffer scratch(DType::f32, scratch_bytes(kernels, 2, args) / 4, 0);
            run({&kernels, &pool, reinterpret_cast<std::byte*>(scratch.data())}, args);
            for (std::size_t i = 0; i < rows * columns; ++i) {
                check::that(std::isnan(y[i]) == (i / columns == 6), "NaN stays in its row");
            }
        }
    }
}

// The closed form against looking at every position.
void test_inside_columns() {
    for (std::size_t width = 1; width <= 9; ++width)
        for (std::size_t padding = 0; padding <= 6; ++padding)
            for (std::size_t window = 1; window <= 7; ++window)
                for (std::size_t stride = 1; stride <= 4; ++stride) {
                    const std::size_t count = 12 / stride;
                    const cpu::InsideColumns inside(width, padding, window, stride, count);
                    for (std::size_t at = 0; at < count; ++at) {
                        const bool expected = at * stride >= padding && at * stride + window <= width + padding;
                        check::that(expected == (at >= inside.first && at < inside.last), "inside columns");
                    }
                }
}

}  // namespace

int main() {
    test_inside_columns();
    const std::size_t shapes[][3] = {{1, 1, 1},   {1, 300, 130}, {2, 7, 5},    {5, 33, 17},   {8, 64, 48},
                                     {9, 65, 49}, {13, 31, 97},  {32, 129, 7}, {67, 50, 200}, {403, 12, 50}};
    for (const auto& shape : shapes) {
        for (const Dtypes& t : kDtypes) test_linear(shape[0], shape[1], shape[2], t, Activation::none, true, false);
    }
    for (const Activation activation : check::kActivations) {
        test_linear(10, 20, 60, kDtypes[0], activation, true, true);
        test_linear(10, 20, 60, kDtypes[3], activation, false, false);
        test_activation_range(activation);
    }
    // Depths that are summed in several parts.
    test_linear(11, 4801, 50, kDtypes[0], Activation::none, true, true);
    test_linear(11, 9603, 50, kDtypes[3], Activation::gelu, true, true);
    for (const Dtypes& t : kDtypes) {
        test_grouped(1, 8, 33, 12, t);
        test_grouped(17, 3, 24, 50, t);
        test_conv(conv(9, 11, 3, 8, 3, 1, 1, 1), t);
        test_conv(conv(8, 6, 16, 24, 3, 2, 0, 1), t);
        test_conv(conv(7, 9, 5, 49, 3, 1, 1, 1), t);
        test_conv(conv(5, 4, 33, 17, 1, 1, 0, 0), t);
        test_conv(conv(8, 12, 16, 30, 2, 2, 0, 0), t);
        test_conv(conv(21, 40, 4, 3, 3, 1, 2, 0), t);
        test_conv(conv(3, 5, 400, 20, 3, 1, 1, 1), t);
    }
    for (const Dtypes& t : kDtypes) {
        test_conv(winograd(8, 10, 32, 48), t);
        test_conv(winograd(9, 11, 33, 49), t);    // an odd map, odd depths, a panel of one column
        test_conv(winograd(1, 1, 5, 3), t);       // one tile, mostly outside
        test_conv(winograd(2, 70, 16, 96), t);    // several items
        test_conv(winograd(3, 2, 48, 8), t);      // one tile, cut off on two sides
        test_conv(winograd(31, 44, 40, 100), t);  // several items of several rows
        test_conv(winograd(7, 9, 48, 24), t, true);
        cpu::Conv2dArgs lopsided = winograd(12, 7, 24, 20);
        lopsided.padding_top = 0;
        lopsided.padding_left = 2;
        lopsided.padding_bottom = 5;
        lopsided.padding_right = 1;
        lopsided.activation = Activation::none;
        test_conv(lopsided, t);
    }
    test_form();
    for (const DType dtype : check::kTypes) test_nan_stays_in_its_row(dtype);
    return check::finish("products");
}
