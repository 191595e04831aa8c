// SPDX-License-Identifier: Apache-2.0
// One check per op: its roles, shapes, dtypes and attributes (docs/reference/engine-format.md, section 4).
#include <limits>

#include "engine/op_checks.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kMaxHeads = 1 << 16;
constexpr std::int64_t kMaxStride = 1 << 16;
// 255 * 127 * depth, the largest sum of products of a quantised linear, fits into 32 bits.
constexpr std::int64_t kMaxQuantisedDepth = 66311;
static_assert(kMaxQuantisedDepth == INT32_MAX / (255 * 127));

std::int64_t take_heads(OpChecker& check, const Operand& x) {
    const std::int64_t heads = check.integer("heads", 1, kMaxHeads);
    if (x.matrix().columns % heads != 0)
        check.fail("heads " + std::to_string(heads) + " does not divide the width of " + x.label + ", " +
                   std::to_string(x.matrix().columns));
    return heads;
}

void check_preprocess_images(OpChecker& check) {
    const PolicyDescription& policy = check.policy();
    if (!policy.starts_at_images || !check.in_act())
        check.fail("stands only in the program 'act' of an engine that starts at images");
    check.expect_shape(check.output(), {policy.canvas_height, policy.canvas_width, 3});
}

void check_nchw_to_nhwc(OpChecker& check) {
    const Operand x = check.input("x");
    check.expect_rank(x, 3);
    const Shape& s = *x.shape;
    check.expect_shape(check.output(), {s[1], s[2], s[0]});
}

std::int64_t convolved(OpChecker& check, std::int64_t size, std::int64_t before, std::int64_t after,
                       std::int64_t kernel, std::int64_t stride) {
    const std::int64_t padded = size + before + after;
    if (kernel > padded)
        check.fail("kernel " + std::to_string(kernel) + " is larger than the padded input, " + std::to_string(padded));
    return (padded - kernel) / stride + 1;
}

void check_conv2d(OpChecker& check) {
    const Operand x = check.input("x");
    const Operand weight = check.constant("weight", true);
    check.expect_rank(x, 3);
    check.expect_rank(weight, 4);
    check.expect_factors(x, weight);
    const Shape& in = *x.shape;
    const Shape& w = *weight.shape;
    if (w[3] != in[2])
        check.fail(weight.label + " reads " + std::to_string(w[3]) + " channels; " + x.label + " has " +
                   std::to_string(in[2]));
    const std::int64_t stride = check.integer("stride", 1, kMaxStride);
    check.padding();
    check.activation();
    const std::int64_t* p = check.op().attributes.padding;
    const Shape out = {convolved(check, in[0], p[0], p[2], w[1], stride),
                       convolved(check, in[1], p[1], p[3], w[2], stride), w[0]};
    if (const auto bias = check.optional_constant("bias")) check.expect_shape(*bias, {w[0]});
    if (const auto residual = check.optional_input("residual")) check.expect_shape(*residual, out);
    check.expect_shape(check.output(), out);
}

// x and weight of a quantised matmul, both i8 or both f8, and the scales that turn its sums into numbers: one for each
// row of the matrix views. Rows of i8 have a zero point too.
std::pair<Operand, Operand> take_quantised_factors(OpChecker& check, std::size_t weight_rank) {
    const Operand x = check.integer_input("x", Numbers::eight_bit);
    const Operand weight = check.eight_bit_constant("weight", x.dtype);
    check.expect_rank(weight, weight_rank);
    const Operand x_scale = check.input("x_scale");
    check.expect_shape(x_scale, {x.matrix().rows});
    check.expect_f32(x_scale);
    check.expect_shape(check.constant("weight_scale"), {weight.matrix().rows});
    if (x.dtype == DType::f8) return {x, weight};
    check.expect_shape(check.integer_input("x_zero"), {x.matrix().rows});
    if (x.matrix().columns > kMaxQuantisedDepth)
        check.fail("sums " + std::to_string(x.matrix().columns) + " products of 8 bits; expected at most " +
                   std::to_string(kMaxQuantisedDepth) + ", which fit into 32 bits");
    return {x, weight};
}

std::pair<Operand, Operand> take_factors(OpChecker& check, std::size_t weight_rank) {
    if (check.is_eight_bit_input("x")) return take_quantised_factors(check, weight_rank);
    const Operand x = check.input("x");
    const Operand weight = check.constant("weight", true);
    check.expect_rank(weight, weight_rank);
    check.expect_factors(x, weight);
    return {x, weight};
}

// What is added to the sums of a matmul, and what it writes.
void finish_matmul(OpChecker& check, const Matrix& out) {
    if (const auto bias = check.optional_constant("bias")) check.expect_shape(*bias, {out.columns});
    if (const auto residual = check.optional_input("residual")) check.expect_matrix(*residual, out);
    check.expect_matrix(check.output(), out);
}

void check_linear(OpChecker& check) {
    const auto [x, weight] = take_factors(check, 2);
    const std::int64_t columns = (*weight.shape)[0];
    check.expect_shape(weight, {columns, x.matrix().columns});
    check.activation();
    finish_matmul(check, {x.matrix().rows, columns});
}

void check_quantize_rows(OpChecker& check) {
    const Operand x = check.input("x");
    const Operand y = check.integer_output("y", Numbers::eight_bit);
    check.expect_matrix(y, x.matrix());
    const Operand scale = check.output("scale");
    check.expect_shape(scale, {x.matrix().rows});
    check.expect_f32(scale);
    if (y.dtype == DType::i8) check.expect_shape(check.integer_output("zero"), {x.matrix().rows});
}

void check_grouped_linear(OpChecker& check) {
    const auto [x, weight] = take_factors(check, 3);
    check.expect_rank(x, 3);
    const Shape& in = *x.shape;
    const std::int64_t columns = (*weight.shape)[1];
    check.expect_shape(weight, {in[1], columns, in[2]});
    if (const auto bias = check.optional_constant("bias")) check.expect_shape(*bias, {in[1] * columns});
    check.expect_matrix(check.output(), {in[0], in[1] * columns});
}

void check_layer_norm(OpChecker& check) {
    const Operand x = check.input("x");
    const Shape width = {x.matrix().columns};
    const auto weight = check.optional_constant("weight");
    const auto bias = check.optional_constant("bias");
    if (weight) check.expect_shape(*weight, width);
    if (bias) check.expect_shape(*bias, width);
    check.positive("eps");
    check.expect_matrix(check.output(), x.matrix());
}

void check_rms_norm(OpChecker& check) {
    const Operand x = check.input("x");
    check.expect_shape(check.constant("weight"), {x.matrix().columns});
    check.positive("eps");
    check.activation();
    check.expect_matrix(check.output(), x.matrix());
}

void check_rms_norm_rope(OpChecker& check) {
    const Operand x = check.input("x");
    const std::int64_t heads = take_heads(check, x);
    const std::int64_t head_width = x.matrix().columns / heads;
    if (head_width % 2 != 0) check.fail("head width " + std::to_string(head_width) + " is odd; expected even");
    check.expect_shape(check.constant("weight"), {x.matrix().columns});
    check.expect_shape(check.constant("cos"), {x.matrix().rows, head_width / 2});
    check.expect_shape(check.constant("sin"), {x.matrix().rows, head_width / 2});
    check.positive("eps");
    check.expect_matrix(check.output(), x.matrix());
}

void check_self_attention(OpChecker& check) {
    const Operand q = check.input("q");
    take_heads(check, q);
    for (const char* role : {"k", "v"}) {
        const Operand operand = check.input(role);
        check.expect_matrix(operand, q.matrix());
        check.expect_same_dtype(q, operand);
    }
    check.positive("scale");
    check.expect_matrix(check.output(), q.matrix());
}

// Queries, keys and what the keys carry (`carried`_text, `carried`_proprio) of both kinds of cross-attention.
// Returns the width of what they carry.
std::int64_t take_keys(OpChecker& check, const Operand& q, const std::string& carried) {
    const Operand key = check.input("key_text");
    const Operand text = check.input(carried + "_text");
    const std::int64_t rows = key.matrix().rows;
    const std::int64_t width = text.matrix().columns;
    check.expect_matrix(key, {rows, q.matrix().columns});
    check.expect_matrix(text, {rows, width});
    check.expect_same_dtype(q, key);
    check.expect_same_dtype(q, text);
    const Operand bias = check.input("key_bias");
    check.expect_shape(bias, {rows});
    check.expect_f32(bias);
    check.expect_shape(check.integer_input("key_count"), {1});
    const auto key_proprio = check.optional_input("key_proprio");
    const auto proprio = check.optional_input(carried + "_proprio");
    if (key_proprio.has_value() != proprio.has_value())
        check.fail("inputs 'key_proprio' and '" + carried + "_proprio' come together; one is missing");
    if (key_proprio) {
        check.expect_matrix(*key_proprio, {key_proprio->matrix().rows, q.matrix().columns});
        check.expect_matrix(*proprio, {key_proprio->matrix().rows, width});
        check.expect_same_dtype(q, *key_proprio);
        check.expect_same_dtype(q, *proprio);
    }
    check.positive("scale");
    return width;
}

void check_cross_attention(OpChecker& check) {
    const Operand q = check.input("q");
    take_heads(check, q);
    if (const std::int64_t width = take_keys(check, q, "value"); width != q.matrix().columns)
        check.fail("input 'value_text' has the width " + std::to_string(width) + "; expected that of " + q.label +
                   ", " + std::to_string(q.matrix().columns));
    check.expect_matrix(check.output(), q.matrix());
}

void check_cross_attention_folded(OpChecker& check) {
    const Operand q = check.input("q");
    const std::int64_t heads = take_heads(check, q);
    const std::int64_t width = take_keys(check, q, "output");
    if (width % heads != 0)
        check.fail("input 'output_text' has the width " + std::to_string(width) + "; expected a multiple of heads, " +
                   std::to_string(heads));
    // The runtime holds the probabilities of all tokens, heads and keys at once.
    const std::int64_t keys = check.input("key_text").matrix().rows +
                              (check.optional_input("key_proprio") ? check.input("key_proprio").matrix().rows : 0);
    if (keys > static_cast<std::int64_t>(kMaxBlockBytes / 4) / (q.matrix().rows * heads))
        check.fail("needs the probabilities of " + std::to_string(q.matrix().rows) + " tokens, " +
                   std::to_string(heads) + " heads and " + std::to_string(keys) + " keys; expected at most " +
                   std::to_string(kMaxBlockBytes / 4) + " together");
    finish_matmul(check, {q.matrix().rows, width / heads});
}

void check_text_key_bias(OpChecker& check) {
    check.expect_shape(check.integer_input("text_rows"), {1});
    const Operand bias = check.output("key_bias");
    check.expect_shape(bias, {check.policy().context_rows});
    check.expect_f32(bias);
    check.expect_shape(check.integer_output("key_count"), {1});
}

void check_learned_query_pool(OpChecker& check) {
    const Operand x = check.input("x");
    const std::int64_t width = x.matrix().columns;
    const std::int64_t heads = check.integer("heads", 1, kMaxHeads);
    const std::int64_t queries = check.integer("queries", 1, kMaxHeads);
    check.expect_shape(check.constant("scores", true), {heads * queries, width});
    const Operand merge = check.constant("merge");
    check.expect_rank(merge, 2);
    const std::int64_t slots = (*merge.shape)[0];
    check.expect_shape(merge, {slots, queries});
    check.positive("eps");
    check.expect_shape(check.output(), {slots, heads, width});
}

void check_mean_pool(OpChecker& check) {
    const Operand x = check.input("x");
    check.expect_matrix(check.output(), {1, x.matrix().columns});
}

void check_add(OpChecker& check) {
    const Operand a = check.input_or_constant("a");
    const Operand b = check.input_or_constant("b");
    if (b.matrix() != Matrix{1, a.matrix().columns}) check.expect_matrix(b, a.matrix());
    check.expect_matrix(check.output(), a.matrix());
}

void check_concat(OpChecker& check) {
    const Operand first = check.input("x.0");
    Matrix out = first.matrix();
    for (std::size_t i = 1; i < check.op().inputs.size(); ++i) {
        const Operand next = check.input("x." + std::to_string(i));
        check.expect_matrix(next, {out.rows, next.matrix().columns});
        if (out.columns > kMaxElements - next.matrix().columns) check.fail("the inputs are too wide together");
        out.columns += next.matrix().columns;
    }
    check.expect_matrix(check.output(), out);
}

void check_scale_shift_clamp(OpChecker& check) {
    const Operand x = check.input("x");
    check.expect_shape(check.constant("scale"), {x.matrix().columns});
    check.expect_shape(check.constant("shift"), {x.matrix().columns});
    constexpr double kOpen = std::numeric_limits<double>::infinity();
    const double minimum = check.bound("minimum", -kOpen);
    if (minimum > check.bound("maximum", kOpen)) check.fail("minimum is greater than maximum");
    check.expect_matrix(check.output(), x.matrix());
}

void check_gripper_rule(OpChecker& check) {
    const Operand x = check.input("x");
    check.integer("column", 0, x.matrix().columns - 1);
    check.expect_matrix(check.output(), x.matrix());
}

void check_cast(OpChecker& check) {
    const Operand x = check.input("x");
    const Operand y = check.output();
    check.expect_matrix(y, x.matrix());
    if (x.dtype == y.dtype) check.fail("output 'y' has the dtype of input 'x'; expected the other one");
}

void check_reshape(OpChecker& check) {
    const Operand x = check.input("x");
    const Operand y = check.output();
    check.expect_same_dtype(x, y);
    if (x.value->storage != Storage::arena) check.fail("input 'x' is not in the arena; only arena values are reshaped");
    if (x.value->storage != y.value->storage || x.value->offset != y.value->offset || x.value->bytes != y.value->bytes)
        check.fail("output 'y' does not lie on the bytes of input 'x'");
}

void check_subtract(OpChecker& check) { check_add(check); }

}  // namespace

void check_op(OpChecker& checker) {
    switch (checker.op().kind) {
#define LIGHTWAM_OP(name, inputs, constants, outputs, rows) \
    case OpKind::name:                                      \
        check_##name(checker);                              \
        break;
#include "engine/ops.def"
    }
    checker.finish();
}

bool allows_in_place(OpKind kind, std::string_view role) noexcept {
    const std::optional<std::string_view> marks = role_marks(op_row(kind).inputs, role);
    return marks && marks->find('=') != std::string_view::npos;
}

}  // namespace lightwam::engine
