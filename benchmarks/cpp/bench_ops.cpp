// SPDX-License-Identifier: Apache-2.0
//
// bench_ops [--threads N] [--level NAME] [--only TEXT] [--json FILE]: speed of the operations on the shapes of the
// published policy and of the small bundled one. The median of many samples of at least a millisecond counts. One
// thread is timed by its CPU time, not by the wall clock: the machine may be busy with something else.
#include <cstdlib>

#include "bench.hpp"

namespace cpu = lightwam::cpu;
using bench::Bench;
using bench::Block;
using bench::Options;
using cpu::DType;

namespace {

std::string join(const std::string& name, std::initializer_list<std::size_t> sizes) {
    std::string text = name;
    char separator = ' ';
    for (const std::size_t size : sizes) {
        text.push_back(separator);
        text.append(std::to_string(size));
        separator = 'x';
    }
    return text;
}

void linear(Bench& bench, std::size_t rows, std::size_t depth, std::size_t columns, DType dtype,
            cpu::Activation activation = cpu::Activation::none) {
    const std::string name =
        join(activation == cpu::Activation::none ? "linear" : "linear gelu_tanh", {rows, depth, columns});
    if (!bench.wanted(name)) return;
    Block x(dtype, rows * depth), bias(DType::f32, columns), residual(dtype, rows * columns), y(dtype, rows * columns);
    Block weight = bench.packed({nullptr, dtype, dtype, 1, columns, 1, depth});
    const cpu::LinearArgs args{rows,          depth,      columns,          x.input(),  weight.data(),
                               bias.floats(), activation, residual.input(), y.output(), {}};
    const double values = static_cast<double>(rows * depth + columns * depth + 2 * rows * columns);
    bench.time(name, dtype, args, 2.0 * static_cast<double>(rows * depth * columns),
               values * static_cast<double>(size_of(dtype)));
}

// x and weight of 8 bits; residual and y of bf16, as in an int8 engine made from a bf16 one.
void linear_i8(Bench& bench, std::size_t rows, std::size_t depth, std::size_t columns,
               cpu::Activation activation = cpu::Activation::none) {
    const std::string name =
        join(activation == cpu::Activation::none ? "linear" : "linear gelu_tanh", {rows, depth, columns});
    if (!bench.wanted(name)) return;
    Block x(DType::i8, rows * depth), bias(DType::f32, columns), residual(DType::bf16, rows * columns);
    Block y(DType::bf16, rows * columns), x_scale(DType::f32, rows), weight_scale(DType::f32, columns);
    Block weight = bench.packed({nullptr, DType::i8, DType::i8, 1, columns, 1, depth});
    const std::vector<std::int32_t> x_zero(rows, 3);
    const cpu::LinearArgs args{rows,          depth,
                               columns,       x.input(),
                               weight.data(), bias.floats(),
                               activation,    residual.input(),
                               y.output(),    {x_scale.floats(), x_zero.data(), weight_scale.floats()}};
    bench.time(name, DType::i8, args, 2.0 * static_cast<double>(rows * depth * columns),
               static_cast<double>(rows * depth + columns * depth + 4 * rows * columns));
}

void quantize(Bench& bench, std::size_t count, std::size_t columns) {
    const std::string name = join("quantize_rows", {count, columns});
    if (!bench.wanted(name)) return;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Block x(dtype, count * columns), y(DType::i8, count * columns), scale(DType::f32, count);
        std::vector<std::int32_t> zero(count);
        const cpu::QuantizeRowsArgs args{
            count, columns, x.input(), reinterpret_cast<std::int8_t*>(y.data()), scale.floats(), zero.data()};
        bench.time(name, dtype, args, 0.0, static_cast<double>(count * columns * (size_of(dtype) + 1)));
    }
}

void grouped(Bench& bench, std::size_t rows, std::size_t groups, std::size_t depth, std::size_t columns, DType dtype) {
    const std::string name = join("grouped_linear", {rows, groups, depth, columns});
    if (!bench.wanted(name)) return;
    Block x(dtype, rows * groups * depth), bias(DType::f32, groups * columns), y(dtype, rows * groups * columns);
    Block weight = bench.packed({nullptr, dtype, dtype, groups, columns, 1, depth});
    const cpu::LinearArgs args{.rows = rows,
                               .depth = depth,
                               .columns = columns,
                               .x = x.input(),
                               .weight = weight.data(),
                               .bias = bias.floats(),
                               .y = y.output(),
                               .groups = groups};
    const double products = static_cast<double>(groups * depth * columns);
    bench.time(name, dtype, args, 2.0 * static_cast<double>(rows) * products,
               products * static_cast<double>(size_of(dtype)));
}

// x and weight of 8 bits, y of bf16.
void grouped_i8(Bench& bench, std::size_t rows, std::size_t groups, std::size_t depth, std::size_t columns) {
    const std::string name = join("grouped_linear", {rows, groups, depth, columns});
    if (!bench.wanted(name)) return;
    Block x(DType::i8, rows * groups * depth), bias(DType::f32, groups * columns);
    Block y(DType::bf16, rows * groups * columns);
    Block x_scale(DType::f32, rows * groups), weight_scale(DType::f32, groups * columns);
    Block weight = bench.packed({nullptr, DType::i8, DType::i8, groups, columns, 1, depth});
    const std::vector<std::int32_t> x_zero(rows * groups, 3);
    const cpu::Quantisation scales{x_scale.floats(), x_zero.data(), weight_scale.floats()};
    const cpu::LinearArgs args{.rows = rows,
                               .depth = depth,
                               .columns = columns,
                               .x = x.input(),
                               .weight = weight.data(),
                               .bias = bias.floats(),
                               .y = y.output(),
                               .quantisation = scales,
                               .groups = groups};
    const double products = static_cast<double>(groups * depth * columns);
    bench.time(name, DType::i8, args, 2.0 * static_cast<double>(rows) * products, products);
}

void conv(Bench& bench, std::size_t height, std::size_t width, std::size_t in, std::size_t out, std::size_t kernel,
          std::size_t stride, DType dtype) {
    const std::string name = join("conv2d", {height, width, in, out, kernel, stride});
    if (!bench.wanted(name)) return;
    cpu::Conv2dArgs args;
    args.height = height;
    args.width = width;
    args.in_channels = in;
    args.out_channels = out;
    args.kernel_height = args.kernel_width = kernel;
    args.stride = stride;
    args.padding_top = args.padding_left = stride == 1 ? kernel / 2 : 0;
    args.padding_bottom = args.padding_right = kernel / 2;
    const std::size_t positions = out_height(args) * out_width(args);
    Block x(dtype, height * width * in), y(dtype, positions * out), bias(DType::f32, out);
    args.x = x.input();
    args.bias = bias.floats();
    args.y = y.output();
    const bool has_winograd = kernel == 3 && stride == 1;
    const cpu::ConvForm chosen = conv_form(args);
    std::vector<Block> weights;
    std::vector<std::pair<std::string, cpu::Conv2dArgs>> ways;
    for (const cpu::ConvForm form : {cpu::ConvForm::direct, cpu::ConvForm::winograd}) {
        if (form == cpu::ConvForm::winograd && !has_winograd) continue;
        weights.push_back(bench.packed({nullptr, dtype, dtype, 1, out, kernel * kernel, in, form}));
        args.form = form;
        args.weight = weights.back().data();
        const char* label = form == cpu::ConvForm::direct ? " direct" : " winograd";
        ways.emplace_back(name + label + (form == chosen ? " *" : ""), args);
    }
    const double values = static_cast<double>(height * width * in + positions * out + out * kernel * kernel * in);
    bench.time_ways(ways, dtype, 2.0 * static_cast<double>(positions * out * kernel * kernel * in),
                    values * static_cast<double>(size_of(dtype)));
}

void self_attention(Bench& bench, std::size_t tokens, std::size_t heads, std::size_t width, DType dtype) {
    const std::string name = join("self_attention", {tokens, heads, width});
    if (!bench.wanted(name)) return;
    const std::size_t count = tokens * heads * width;
    Block q(dtype, count), k(dtype, count), v(dtype, count), y(dtype, count);
    const cpu::SelfAttentionArgs args{tokens, heads, width, 0.1F, q.input(), k.input(), v.input(), y.output()};
    bench.time(name, dtype, args, 4.0 * static_cast<double>(tokens * count),
               4.0 * static_cast<double>(count * size_of(dtype)));
}

void cross_attention(Bench& bench, std::size_t tokens, std::size_t heads, std::size_t width, std::size_t text,
                     DType dtype) {
    const std::string name = join("cross_attention", {tokens, heads, width, text});
    if (!bench.wanted(name)) return;
    const std::size_t d = heads * width;
    Block q(dtype, tokens * d), k(dtype, text * d), v(dtype, text * d), y(dtype, tokens * d), bias(DType::f32, text);
    const auto count = static_cast<std::int32_t>(text);
    const cpu::CrossAttentionArgs args{
        {tokens, heads, width, text, 1, 0.1F, q.input(), k.input(), bias.floats(), &count, k.input()},
        v.input(),
        v.input(),
        y.output()};
    bench.time(name, dtype, args, 4.0 * static_cast<double>(tokens * (text + 1) * d),
               2.0 * static_cast<double>((tokens + text) * d * size_of(dtype)));
}

void query_pool(Bench& bench, std::size_t tokens, std::size_t width, std::size_t heads, std::size_t queries,
                DType dtype) {
    const std::string name = join("learned_query_pool", {tokens, width, heads, queries});
    if (!bench.wanted(name)) return;
    Block x(dtype, tokens * width), merge(DType::f32, queries), y(DType::f32, heads * width);
    Block scores = bench.packed({nullptr, dtype, dtype, 1, heads * queries, 1, width});
    const cpu::LearnedQueryPoolArgs args{tokens,    width,         heads, queries,        1,         1e-6F,
                                         x.input(), scores.data(), dtype, merge.floats(), y.output()};
    bench.time(name, dtype, args, 2.0 * static_cast<double>(tokens * width * heads * (queries + 1)),
               static_cast<double>(tokens * width * size_of(dtype)));
}

void rows(Bench& bench, std::size_t count, std::size_t columns, std::size_t heads, DType dtype) {
    Block x(dtype, count * columns), y(dtype, count * columns), weight(DType::f32, count * columns);
    const double bytes = 2.0 * static_cast<double>(count * columns * size_of(dtype));
    const auto time = [&](const char* what, const auto& args, double moved) {
        const std::string name = join(what, {count, columns});
        if (bench.wanted(name)) bench.time(name, dtype, args, 0.0, moved);
    };
    time("layer_norm",
         cpu::LayerNormArgs{count, columns, 1e-6F, x.input(), weight.floats(), weight.floats(), y.output()}, bytes);
    time("rms_norm silu",
         cpu::RmsNormArgs{count, columns, 1e-6F, x.input(), weight.floats(), cpu::Activation::silu, y.output()}, bytes);
    time("add", cpu::AddArgs{count, columns, false, false, false, x.input(), y.input(), y.output()}, bytes * 1.5);
    time("mean_pool", cpu::MeanPoolArgs{count, columns, x.input(), y.output()}, bytes / 2);
    if (heads == 0) return;
    const cpu::RmsNormRopeArgs rope{count,           heads,           columns / heads, 1e-6F,     x.input(),
                                    weight.floats(), weight.floats(), weight.floats(), y.output()};
    time("rms_norm_rope", rope, bytes);
}

void preprocess(Bench& bench, std::size_t in, std::size_t out, DType dtype) {
    const std::string name = join("preprocess_images 2", {in, out});
    if (!bench.wanted(name)) return;
    std::vector<std::uint8_t> pixels(in * in * 3, 77);
    const cpu::ResizePlan plan(in, in, out, out, bench.threads());
    const auto stride = static_cast<std::ptrdiff_t>(in * 3);
    const cpu::CameraImage cameras[] = {{pixels.data(), stride, 3, 1, true, 0, 0, &plan},
                                        {pixels.data(), stride, 3, 1, true, 0, out, &plan}};
    Block y(dtype, out * out * 6);
    bench.time(name, dtype, cpu::PreprocessImagesArgs{out, 2 * out, cameras, 2, y.output()}, 0.0,
               static_cast<double>(in * in * 6));
}

void published_shapes(Bench& bench, DType dtype) {
    linear(bench, 392, 1536, 1536, dtype);
    linear(bench, 392, 1536, 8960, dtype);
    linear(bench, 392, 1536, 8960, dtype, cpu::Activation::gelu_tanh);
    linear(bench, 392, 8960, 1536, dtype);
    linear(bench, 392, 1536, 256, dtype);
    linear(bench, 1, 13824, 6144, dtype);
    linear(bench, 32, 6144, 6144, dtype);
    grouped(bench, 1, 8, 1536, 192, dtype);
    for (const std::size_t rows : {1, 128}) grouped(bench, rows, 12, 128, 1536, dtype);
    conv(bench, 224, 448, 3, 96, 3, 1, dtype);
    conv(bench, 224, 448, 96, 96, 3, 1, dtype);
    conv(bench, 225, 449, 96, 96, 3, 2, dtype);
    conv(bench, 112, 224, 96, 192, 3, 1, dtype);
    conv(bench, 56, 112, 384, 384, 3, 1, dtype);
    conv(bench, 28, 56, 384, 384, 3, 1, dtype);
    self_attention(bench, 392, 12, 128, dtype);
    self_attention(bench, 1568, 1, 384, dtype);
    cross_attention(bench, 392, 12, 128, 32, dtype);
    query_pool(bench, 392, 1536, 8, 16, dtype);
    rows(bench, 392, 1536, 12, dtype);
    rows(bench, 100352, 96, 0, dtype);
    preprocess(bench, 256, 224, dtype);
}

void nano_shapes(Bench& bench, DType dtype) {
    linear(bench, 128, 192, 192, dtype);
    linear(bench, 128, 192, 768, dtype);
    linear(bench, 128, 768, 192, dtype);
    linear(bench, 16, 512, 7, dtype);
    conv(bench, 128, 256, 3, 8, 3, 1, dtype);
    conv(bench, 128, 256, 8, 8, 3, 1, dtype);
    conv(bench, 64, 128, 16, 16, 3, 1, dtype);
    conv(bench, 16, 32, 32, 32, 3, 1, dtype);
    self_attention(bench, 128, 6, 32, dtype);
    self_attention(bench, 512, 1, 32, dtype);
    cross_attention(bench, 128, 6, 32, 24, dtype);
    query_pool(bench, 128, 192, 8, 16, dtype);
    rows(bench, 128, 192, 6, dtype);
    rows(bench, 32768, 8, 0, dtype);
    preprocess(bench, 256, 128, dtype);
}

void quantised_shapes(Bench& bench) {
    linear_i8(bench, 392, 1536, 1536);
    linear_i8(bench, 392, 1536, 8960);
    linear_i8(bench, 392, 1536, 8960, cpu::Activation::gelu_tanh);
    linear_i8(bench, 392, 8960, 1536);
    linear_i8(bench, 1, 13824, 6144);
    linear_i8(bench, 32, 6144, 6144);
    for (const std::size_t rows : {1, 128}) grouped_i8(bench, rows, 12, 128, 1536);
    linear_i8(bench, 128, 192, 768);
    linear_i8(bench, 128, 768, 192);
    quantize(bench, 392, 1536);
    quantize(bench, 392, 8960);
    quantize(bench, 1, 13824);
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string key = argv[i];
        const std::string value = argv[i + 1];
        if (key == "--threads") {
            options.threads = std::atoi(value.c_str());
        } else if (key == "--only") {
            options.only = value;
        } else if (key == "--json") {
            options.json = value;
        } else if (key == "--level") {
            for (const cpu::Level level : cpu::kLevels) {
                if (value == cpu::level_name(level)) options.level = level;
            }
        } else {
            throw std::invalid_argument("unknown option " + key +
                                        "; known: --threads N, --level NAME, --only TEXT, --json FILE");
        }
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        Bench bench(parse(argc, argv));
        for (const DType dtype : {DType::f32, DType::bf16}) {
            published_shapes(bench, dtype);
            nano_shapes(bench, dtype);
        }
        quantised_shapes(bench);
        bench.write_json();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench_ops: %s\n", error.what());
        return 1;
    }
    return 0;
}
