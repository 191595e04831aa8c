// SPDX-License-Identifier: Apache-2.0
//
// self_attention, cross_attention, text_key_bias and learned_query_pool against plain loops in double.
#include "check.hpp"
#include "cpu/isa/kernel_table.hpp"

namespace cpu = lightwam::cpu;
using check::Buffer;
using check::DType;

namespace {

struct Keys {
    std::vector<const Buffer*> key;  // one entry a key row
    std::vector<const Buffer*> value;
    std::vector<std::size_t> row;
    std::vector<double> bias;
};

std::vector<double> reference_attention(const Buffer& q, const Keys& keys, std::size_t tokens, std::size_t heads,
                                        std::size_t width, double scale) {
    std::vector<double> y(tokens * heads * width);
    for (std::size_t s = 0; s < tokens; ++s) {
        for (std::size_t h = 0; h < heads; ++h) {
            std::vector<double> p(keys.row.size());
            double sum = 0.0;
            for (std::size_t j = 0; j < p.size(); ++j) {
                double dot = 0.0;
                for (std::size_t i = 0; i < width; ++i) {
                    dot += q[(s * heads + h) * width + i] * (*keys.key[j])[(keys.row[j] * heads + h) * width + i];
                }
                p[j] = std::exp(dot * scale + keys.bias[j]);
                sum += p[j];
            }
            for (std::size_t j = 0; j < p.size(); ++j) {
                for (std::size_t i = 0; i < width; ++i) {
                    y[(s * heads + h) * width + i] +=
                        p[j] / sum * (*keys.value[j])[(keys.row[j] * heads + h) * width + i];
                }
            }
        }
    }
    return y;
}

void test_self(std::size_t tokens, std::size_t heads, std::size_t width, DType dtype, DType out) {
    const std::size_t count = tokens * heads * width;
    const Buffer q = Buffer::random(dtype, count, 1, 3.0);
    const Buffer k = Buffer::random(dtype, count, 2, 3.0);
    const Buffer v = Buffer::random(dtype, count, 3);
    Keys keys;
    for (std::size_t s = 0; s < tokens; ++s) {
        keys.key.push_back(&k);
        keys.value.push_back(&v);
        keys.row.push_back(s);
        keys.bias.push_back(0.0);
    }
    cpu::SelfAttentionArgs args;
    args.tokens = tokens;
    args.heads = heads;
    args.head_width = width;
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
    args.q = q.input();
    args.k = k.input();
    args.v = v.input();
    Buffer y(out, count);
    args.y = y.output();
    const std::string what = "self_attention " + std::to_string(tokens) + "x" + std::to_string(heads) + "x" +
                             std::to_string(width) + " " + check::name(dtype) + "->" + check::name(out);
    check::op(what, args, y, reference_attention(q, keys, tokens, heads, width, args.scale),
              check::tolerance(dtype, out));
}

void test_cross(std::size_t tokens, std::size_t heads, std::size_t width, std::size_t text, std::int32_t count,
                std::size_t proprio, DType dtype) {
    const std::size_t d = heads * width;
    const Buffer q = Buffer::random(dtype, tokens * d, 1, 3.0);
    Buffer key_text = Buffer::random(dtype, text * d, 2, 3.0);
    Buffer value_text = Buffer::random(dtype, text * d, 3);
    const Buffer key_proprio = Buffer::random(dtype, proprio * d, 4, 3.0);
    const Buffer value_proprio = Buffer::random(dtype, proprio * d, 5);
    Buffer bias = Buffer::random(DType::f32, text, 6, 2.0);
    const auto used = static_cast<std::size_t>(count);
    Keys keys;
    for (std::size_t s = 0; s < used + proprio; ++s) {
        keys.key.push_back(s < used ? &key_text : &key_proprio);
        keys.value.push_back(s < used ? &value_text : &value_proprio);
        keys.row.push_back(s < used ? s : s - used);
        keys.bias.push_back(s < used ? bias[s] : 0.0);
    }
    cpu::CrossAttentionArgs args;
    args.tokens = tokens;
    args.heads = heads;
    args.head_width = width;
    args.text_rows = text;
    args.proprio_rows = proprio;
    args.scale = 0.3F;
    args.q = q.input();
    args.key_bias = bias.floats();
    args.key_count = &count;
    args.key_proprio = key_proprio.input();
    args.value_proprio = value_proprio.input();
    Buffer y(dtype, tokens * d);
    args.y = y.output();
    const std::vector<double> reference = reference_attention(q, keys, tokens, heads, width, args.scale);
    // Rows past the count must not be looked at.
    for (std::size_t i = used * d; i < text * d; ++i) {
        key_text.set(i, std::numeric_limits<double>::quiet_NaN());
        value_text.set(i, std::numeric_limits<double>::quiet_NaN());
    }
    args.key_text = key_text.input();
    args.value_text = value_text.input();
    check::op("cross_attention " + std::to_string(count) + "+" + std::to_string(proprio) + " " + check::name(dtype),
              args, y, reference, check::tolerance(dtype));
}

void test_cross_folded(std::size_t tokens, std::size_t heads, std::size_t width, std::size_t columns, std::size_t text,
                       std::int32_t count, std::size_t proprio, DType dtype, DType out, bool plain) {
    const std::size_t d = heads * width, wide = heads * columns;
    const Buffer q = Buffer::random(dtype, tokens * d, 1, 3.0);
    Buffer key_text = Buffer::random(dtype, text * d, 2, 3.0);
    Buffer output_text = Buffer::random(dtype, text * wide, 3);
    const Buffer key_proprio = Buffer::random(dtype, proprio * d, 4, 3.0);
    const Buffer output_proprio = Buffer::random(dtype, proprio * wide, 5);
    Buffer key_bias = Buffer::random(DType::f32, text, 6, 2.0);
    Buffer bias = Buffer::random(DType::f32, columns, 7);
    const Buffer residual = Buffer::random(out, tokens * columns, 8);
    const auto used = static_cast<std::size_t>(count);
    std::vector<double> reference(tokens * columns);
    for (std::size_t s = 0; s < tokens; ++s) {
        for (std::size_t h = 0; h < heads; ++h) {
            std::vector<double> p(used + proprio);
            double sum = 0.0;
            for (std::size_t j = 0; j < p.size(); ++j) {
                const Buffer& key = j < used ? key_text : key_proprio;
                const std::size_t row = j < used ? j : j - used;
                double dot = 0.0;
                for (std::size_t i = 0; i < width; ++i)
                    dot += q[(s * heads + h) * width + i] * key[(row * heads + h) * width + i];
                p[j] = std::exp(dot * static_cast<double>(0.3F) + (j < used ? key_bias[j] : 0.0));
                sum += p[j];
            }
            for (std::size_t j = 0; j < p.size(); ++j) {
                const Buffer& output = j < used ? output_text : output_proprio;
                const std::size_t row = j < used ? j : j - used;
                for (std::size_t n = 0; n < columns; ++n)
                    reference[s * columns + n] += p[j] / sum * output[(row * heads + h) * columns + n];
            }
        }
        for (std::size_t n = 0; n < columns && !plain; ++n)
            reference[s * columns + n] += bias[n] + residual[s * columns + n];
    }
    // Rows past the count must not be looked at.
    for (std::size_t i = used * d; i < text * d; ++i) key_text.set(i, std::numeric_limits<double>::quiet_NaN());
    for (std::size_t i = used * wide; i < text * wide; ++i)
        output_text.set(i, std::numeric_limits<double>::quiet_NaN());
    cpu::CrossAttentionFoldedArgs args;
    args.tokens = tokens;
    args.heads = heads;
    args.head_width = width;
    args.columns = columns;
    args.text_rows = text;
    args.proprio_rows = proprio;
    args.scale = 0.3F;
    args.q = q.input();
    args.key_text = key_text.input();
    args.output_text = output_text.input();
    args.key_bias = key_bias.floats();
    args.key_count = &count;
    args.key_proprio = key_proprio.input();
    args.output_proprio = output_proprio.input();
    if (!plain) args.bias = bias.floats();
    Buffer y(out, tokens * columns);
    args.y = y.output();
    const std::string what = "cross_attention_folded " + std::to_string(count) + "+" + std::to_string(proprio) + " " +
                             check::name(dtype) + "->" + check::name(out);
    // The residual is added in place.
    check::op(what, args, y, reference, check::tolerance(dtype, out),
              [&](const cpu::KernelTable&, cpu::ThreadPool&, cpu::CrossAttentionFoldedArgs& a, Buffer& into) {
                  if (plain) return;
                  for (std::size_t i = 0; i < residual.count(); ++i) into.set(i, residual[i]);
                  a.residual = into.input();
              });
}

void test_nan_query(DType dtype) {
    const std::size_t tokens = 13, heads = 2, width = 16, d = heads * width;
    Buffer q = Buffer::random(dtype, tokens * d, 1);
    q.set(5 * d + width, std::numeric_limits<double>::quiet_NaN());  // token 5, head 1
    const Buffer k = Buffer::random(dtype, tokens * d, 2);
    Buffer y(dtype, tokens * d);
    for (const cpu::Level level : check::levels()) {
        cpu::SelfAttentionArgs args{tokens, heads, width, 1.0F, q.input(), k.input(), k.input(), y.output()};
        const cpu::KernelTable& kernels = *cpu::kernels_of(level);
        cpu::ThreadPool pool(1);
        Buffer scratch(DType::f32, scratch_bytes(kernels, 1, args) / 4, 0);
        run({&kernels, &pool, reinterpret_cast<std::byte*>(scratch.data())}, args);
        for (std::size_t i = 0; i < y.count(); ++i) {
            check::that(std::isnan(y[i]) == (i / d == 5 && i % d >= width), "a NaN query gives NaN, and only there");
        }
    }
}

// Numerators from 1 down to zero, their sum as they are stored, an impossible key. The factor of an exponent is rounded
// and so is their product: relative errors of 2^-24, times the exponent. What all share (the largest
// exponent's 2^-24 * 1.4) cancels in the probabilities.
void test_softmax_range(std::size_t count, double step, DType dtype) {
    const double scale = 0.7;
    for (const cpu::Level level : check::levels()) {
        const cpu::KernelTable& kernels = *cpu::kernels_of(level);
        Buffer scores(DType::f32, count);
        for (std::size_t i = 0; i < count; ++i) scores.set(i, 2.0 - step * static_cast<double>((i * 7) % count));
        if (count > 40) scores.set(40, -std::numeric_limits<double>::infinity());
        const std::vector<double> logits = scores.values();
        Buffer y(dtype, count);
        const float sum =
            kernels.softmax({scores.floats(), count, static_cast<float>(scale), nullptr, y.output(), false});
        double stored = 0.0;
        const std::string where = "softmax of " + std::to_string(count) + " scores [" + cpu::level_name(level) + "]";
        for (std::size_t i = 0; i < count; ++i) {
            const double exponent = scale * (logits[i] - 2.0);
            const double want = std::exp(exponent);
            const double relative = dtype == DType::f32 ? 3e-7 - 1.5e-7 * exponent : 4e-3;
            const double error = std::abs(y[i] - want);
            check::that(want == 0.0 ? y[i] == 0.0 : error <= relative * want + 2e-38, where + ": numerator");
            stored += y[i];
        }
        check::that(std::abs(sum - stored) <= 1e-6 * stored, where + ": sum of the numerators");
        check::that(y.guards_hold() && scores.guards_hold(), where + ": guards");
    }
}

void test_text_key_bias() {
    for (const std::int32_t n : {0, 3, 7, 8, 11}) {
        Buffer bias(DType::f32, 8);
        std::int32_t count = -1;
        cpu::ThreadPool pool(1);
        run({cpu::best_kernels(), &pool, nullptr}, cpu::TextKeyBiasArgs{8, &n, bias.floats(), &count});
        check::that(count == std::min(n + 1, 8), "key_count of " + std::to_string(n));
        for (std::int32_t i = 0; i < 8; ++i) {
            const double want = i == n ? std::log(8.0 - n) : 0.0;
            check::that(std::abs(bias[static_cast<std::size_t>(i)] - want) < 1e-6, "key_bias of " + std::to_string(n));
        }
        check::that(bias.guards_hold(), "key_bias guards");
    }
}

std::vector<double> normalised(const Buffer& x, std::size_t tokens, std::size_t width, double eps) {
    std::vector<double> n(tokens * width);
    for (std::size_t s = 0; s < tokens; ++s) {
        double mean = 0.0;
        double variance = 0.0;
        for (std::size_t i = 0; i < width; ++i) mean += x[s * width + i] / static_cast<double>(width);
        for (std::size_t i = 0; i < width; ++i)
            variance += std::pow(x[s * width + i] - mean, 2) / static_cast<double>(width);
        for (std::size_t i = 0; i < width; ++i)
            n[s * width + i] = (x[s * width + i] - mean) / std::sqrt(variance + eps);
    }
    return n;
}

std::vector<double> pool_reference(const cpu::LearnedQueryPoolArgs& a, const Buffer& x, const Buffer& scores,
                                   const Buffer& merge) {
    const std::vector<double> n = normalised(x, a.tokens, a.width, a.eps);
    std::vector<double> y(a.slots * a.heads * a.width);
    for (std::size_t row = 0; row < a.heads * a.queries; ++row) {
        std::vector<double> p(a.tokens);
        double sum = 0.0;
        for (std::size_t s = 0; s < a.tokens; ++s) {
            double dot = 0.0;
            for (std::size_t i = 0; i < a.width; ++i) dot += n[s * a.width + i] * scores[row * a.width + i];
            p[s] = std::exp(dot);
            sum += p[s];
        }
        for (std::size_t m = 0; m < a.slots; ++m) {
            for (std::size_t s = 0; s < a.tokens; ++s) {
                const double weight = merge[m * a.queries + row % a.queries] * p[s] / sum;
                for (std::size_t i = 0; i < a.width; ++i) {
                    y[(m * a.heads + row / a.queries) * a.width + i] += weight * n[s * a.width + i];
                }
            }
        }
    }
    return y;
}

void test_pool(std::size_t tokens, std::size_t width, std::size_t heads, std::size_t queries, std::size_t slots,
               DType x_type, DType scores_type) {
    const Buffer x = Buffer::random(x_type, tokens * width, 1, 2.0);
    const Buffer scores = Buffer::random(scores_type, heads * queries * width, 2, 0.5);
    Buffer merge = Buffer::random(DType::f32, slots * queries, 3);
    Buffer y(DType::f32, slots * heads * width);
    cpu::LearnedQueryPoolArgs args;
    args.tokens = tokens;
    args.width = width;
    args.heads = heads;
    args.queries = queries;
    args.slots = slots;
    args.x = x.input();
    args.scores_compute = x_type == DType::bf16 && scores_type == DType::bf16 ? DType::bf16 : DType::f32;
    args.merge = merge.floats();
    args.y = y.output();
    Buffer packed;
    check::op("learned_query_pool " + std::to_string(tokens) + "x" + std::to_string(width) + " " + check::name(x_type),
              args, y, pool_reference(args, x, scores, merge), check::tolerance(args.scores_compute),
              [&](const cpu::KernelTable& kernels, cpu::ThreadPool& pool, cpu::LearnedQueryPoolArgs& a, Buffer&) {
                  packed = check::packed(kernels, pool,
                                         {scores.data(), scores_type, a.scores_compute, 1, heads * queries, 1, width});
                  a.scores = reinterpret_cast<const std::byte*>(packed.data());
              });
}

}  // namespace

int main() {
    for (const DType dtype : check::kTypes) {
        for (const DType out : check::kTypes) {
            test_self(1, 2, 16, dtype, out);
            test_self(37, 3, 32, dtype, out);
            test_self(49, 1, 384, dtype, out);
            test_self(67, 2, 128, dtype, out);
            test_self(10, 2, 22, dtype, out);
            test_self(9, 2, 7, dtype, out);
        }
        test_cross(21, 3, 32, 24, 9, 1, dtype);
        test_cross(8, 2, 16, 128, 128, 0, dtype);
        test_cross(5, 2, 128, 7, 1, 3, dtype);
        test_cross(5, 1, 10, 7, 0, 2, dtype);
        for (const DType out : check::kTypes) {
            test_cross_folded(21, 3, 32, 96, 24, 9, 1, dtype, out, false);
            test_cross_folded(8, 2, 16, 70, 128, 128, 0, dtype, out, true);
            test_cross_folded(67, 12, 8, 50, 40, 22, 2, dtype, out, false);
            test_cross_folded(5, 2, 128, 7, 7, 1, 0, dtype, out, false);
            test_cross_folded(5, 1, 10, 130, 7, 0, 2, dtype, out, false);
        }
        test_nan_query(dtype);
        for (const std::size_t count : {1, 7, 16, 32, 41, 100, 392}) {
            test_softmax_range(count, 0.01, dtype);
            test_softmax_range(count, 2.3, dtype);
        }
        test_pool(40, 48, 8, 16, 1, dtype, DType::f32);
        test_pool(33, 50, 3, 5, 4, dtype, DType::bf16);
        test_pool(1, 70, 2, 20, 3, dtype, dtype);
    }
    test_text_key_bias();
    return check::finish("attention");
}
