// SPDX-License-Identifier: Apache-2.0
#include "runtime/binder.hpp"

#include <algorithm>
#include <type_traits>

namespace lightwam::runtime {
namespace {

using engine::Matrix;
using engine::Op;
using engine::OpKind;
using engine::Shape;
using engine::Storage;
using engine::Tensor;
using engine::Value;

cpu::DType kernel_dtype(engine::DType dtype) {
    if (dtype == engine::DType::i8) return cpu::DType::i8;
    return dtype == engine::DType::bf16 || dtype == engine::DType::f8 ? cpu::DType::bf16 : cpu::DType::f32;
}

cpu::Activation kernel_activation(engine::Activation activation) {
    switch (activation) {
        case engine::Activation::none:
            return cpu::Activation::none;
        case engine::Activation::silu:
            return cpu::Activation::silu;
        case engine::Activation::gelu:
            return cpu::Activation::gelu;
        case engine::Activation::gelu_tanh:
            return cpu::Activation::gelu_tanh;
    }
    return cpu::Activation::none;
}

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

class Binder {
  public:
    Binder(const engine::Graph& graph, const engine::Program& program, const Bases& bases, Weights& weights,
           const RowsInUse& rows)
        : graph_(graph), program_(program), bases_(bases), weights_(weights), rows_(rows) {}

    std::vector<Step> run() {
        std::vector<Step> steps;
        steps.reserve(program_.ops.size());
        for (std::size_t i = 0; i < program_.ops.size(); ++i) {
            const Op& op = program_.ops[i];
            if (op.kind == OpKind::reshape) continue;
            op_ = &op;
            some_rows_ = rows_.ops != nullptr && (*rows_.ops)[i];
            Step& step = steps.emplace_back();
            step.stage = op.stage;
            bind(step);
        }
        return steps;
    }

  private:
    void bind(Step& step);

    const Value& value(const std::string& role) const { return program_.values[engine::find_role(op_->inputs, role)]; }
    const Value& result(const std::string& role = "y") const {
        return program_.values[engine::find_role(op_->outputs, role)];
    }
    bool has_input(const std::string& role) const { return engine::find_role(op_->inputs, role) != engine::npos; }
    const Tensor& tensor(const std::string& role) const {
        return graph_.tensors[engine::find_role(op_->constants, role)];
    }
    bool has_constant(const std::string& role) const { return engine::find_role(op_->constants, role) != engine::npos; }
    Matrix matrix(const std::string& role) const { return engine::matrix_view(value(role).shape); }
    // Rows of the output that are computed, of `all`. A leading row may be several rows of the matrix view.
    std::size_t rows_in_use(std::int64_t all) const { return size(some_rows_ ? all / rows_.all * rows_.used : all); }

    // As integers: a base is null while weights are collected.
    static void* at(std::byte* base, std::uint64_t offset) {
        return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(base) + offset);
    }
    void* address(const Value& value) const {
        if (value.storage == Storage::arena) return at(bases_.arena, value.offset);
        if (value.storage == Storage::instruction) return at(bases_.instruction, value.offset);
        const void* input = value.name == "context"     ? static_cast<const void*>(bases_.context)
                            : value.name == "text_rows" ? static_cast<const void*>(bases_.text_rows)
                            : value.name == "state"     ? static_cast<const void*>(bases_.state)
                                                        : static_cast<const void*>(bases_.latents);
        return const_cast<void*>(input);
    }
    cpu::Input input(const std::string& role) const { return {address(value(role)), kernel_dtype(value(role).dtype)}; }
    cpu::Input optional_input(const std::string& role) const { return has_input(role) ? input(role) : cpu::Input{}; }
    cpu::Output output() const { return {address(result()), kernel_dtype(result().dtype)}; }
    const float* constant(const std::string& role) {
        return reinterpret_cast<const float*>(weights_.raw(engine::find_role(op_->constants, role)));
    }
    const float* optional_constant(const std::string& role) { return has_constant(role) ? constant(role) : nullptr; }
    const std::byte* packed(const std::string& role, cpu::DType compute, std::size_t groups, std::size_t rows,
                            std::size_t taps, std::size_t depth, cpu::ConvForm form = cpu::ConvForm::direct) {
        const cpu::WeightSource shape{nullptr, kernel_dtype(tensor(role).dtype), compute, groups, rows, taps, depth,
                                      form};
        return weights_.packed(engine::find_role(op_->constants, role), shape);
    }
    float eps() const { return static_cast<float>(op_->attributes.eps); }
    float scale() const { return static_cast<float>(op_->attributes.scale); }
    std::size_t heads() const { return size(op_->attributes.heads); }
    cpu::Activation activation() const { return kernel_activation(op_->attributes.activation); }

    cpu::PreprocessImagesArgs preprocess_images() const;
    cpu::NchwToNhwcArgs nchw_to_nhwc() const;
    cpu::Conv2dArgs conv2d();
    cpu::LinearArgs linear();
    cpu::Quantisation quantisation();
    cpu::QuantizeRowsArgs quantize_rows() const;
    cpu::QuantizeRowsF8Args quantize_rows_f8() const;
    cpu::GroupedLinearArgs grouped_linear();
    cpu::LayerNormArgs layer_norm();
    cpu::RmsNormArgs rms_norm();
    cpu::RmsNormRopeArgs rms_norm_rope();
    cpu::SelfAttentionArgs self_attention() const;
    cpu::CrossAttentionArgs cross_attention() const;
    cpu::CrossAttentionFoldedArgs cross_attention_folded();
    cpu::TextKeyBiasArgs text_key_bias() const;
    cpu::LearnedQueryPoolArgs learned_query_pool();
    cpu::MeanPoolArgs mean_pool() const;
    cpu::AddArgs add(bool subtract);
    ConcatStep concat() const;
    cpu::ScaleShiftClampArgs scale_shift_clamp();
    cpu::GripperRuleArgs gripper_rule() const;
    cpu::CastArgs cast() const;

    const engine::Graph& graph_;
    const engine::Program& program_;
    const Bases& bases_;
    Weights& weights_;
    const RowsInUse& rows_;
    const Op* op_ = nullptr;
    bool some_rows_ = false;
};

void Binder::bind(Step& step) {
    switch (op_->kind) {
        case OpKind::preprocess_images:
            step.args = preprocess_images();
            break;
        case OpKind::nchw_to_nhwc:
            step.args = nchw_to_nhwc();
            break;
        case OpKind::conv2d:
            step.args = conv2d();
            break;
        case OpKind::linear:
            step.args = linear();
            break;
        case OpKind::quantize_rows:
            if (result().dtype == engine::DType::i8)
                step.args = quantize_rows();
            else
                step.args = quantize_rows_f8();
            break;
        case OpKind::grouped_linear:
            step.args = grouped_linear();
            break;
        case OpKind::layer_norm:
            step.args = layer_norm();
            break;
        case OpKind::rms_norm:
            step.args = rms_norm();
            break;
        case OpKind::rms_norm_rope:
            step.args = rms_norm_rope();
            break;
        case OpKind::self_attention:
            step.args = self_attention();
            break;
        case OpKind::cross_attention:
            step.args = cross_attention();
            break;
        case OpKind::cross_attention_folded:
            step.args = cross_attention_folded();
            break;
        case OpKind::text_key_bias:
            step.args = text_key_bias();
            break;
        case OpKind::learned_query_pool:
            step.args = learned_query_pool();
            break;
        case OpKind::mean_pool:
            step.args = mean_pool();
            break;
        case OpKind::add:
            step.args = add(false);
            break;
        case OpKind::subtract:
            step.args = add(true);
            break;
        case OpKind::concat:
            step.args = concat();
            break;
        case OpKind::scale_shift_clamp:
            step.args = scale_shift_clamp();
            break;
        case OpKind::gripper_rule:
            step.args = gripper_rule();
            break;
        case OpKind::cast:
            step.args = cast();
            break;
        case OpKind::reshape:
            break;
    }
}

cpu::PreprocessImagesArgs Binder::preprocess_images() const {
    const engine::PolicyDescription& policy = graph_.policy;
    return {size(policy.canvas_height), size(policy.canvas_width), bases_.cameras, bases_.camera_count, output()};
}

cpu::NchwToNhwcArgs Binder::nchw_to_nhwc() const {
    const Shape& shape = value("x").shape;
    return {size(shape[0]), size(shape[1] * shape[2]), input("x"), output()};
}

cpu::Conv2dArgs Binder::conv2d() {
    const Shape& in = value("x").shape;
    const Shape& w = tensor("weight").shape;
    const engine::Attributes& attributes = op_->attributes;
    cpu::Conv2dArgs args;
    args.height = size(in[0]);
    args.width = size(in[1]);
    args.in_channels = size(in[2]);
    args.out_channels = size(w[0]);
    args.kernel_height = size(w[1]);
    args.kernel_width = size(w[2]);
    args.stride = size(attributes.stride);
    args.padding_top = size(attributes.padding[0]);
    args.padding_left = size(attributes.padding[1]);
    args.padding_bottom = size(attributes.padding[2]);
    args.padding_right = size(attributes.padding[3]);
    args.x = input("x");
    args.form = cpu::conv_form(args);
    args.weight = packed("weight", args.x.dtype, 1, args.out_channels, args.kernel_height * args.kernel_width,
                         args.in_channels, args.form);
    args.bias = optional_constant("bias");
    args.activation = activation();
    args.residual = optional_input("residual");
    args.y = output();
    return args;
}

cpu::LinearArgs Binder::linear() {
    const Matrix x = matrix("x");
    cpu::LinearArgs args;
    args.rows = rows_in_use(x.rows);
    args.depth = size(x.columns);
    args.columns = size(tensor("weight").shape[0]);
    args.x = input("x");
    args.weight = packed("weight", args.x.dtype, 1, args.columns, 1, args.depth);
    args.bias = optional_constant("bias");
    args.activation = activation();
    args.residual = optional_input("residual");
    args.y = output();
    args.quantisation = quantisation();
    return args;
}

// Of a product whose x is i8 or f8; else nothing.
cpu::Quantisation Binder::quantisation() {
    if (!has_input("x_scale")) return {};
    const void* zero = has_input("x_zero") ? address(value("x_zero")) : nullptr;
    return {static_cast<const float*>(address(value("x_scale"))), static_cast<const std::int32_t*>(zero),
            constant("weight_scale")};
}

cpu::QuantizeRowsArgs Binder::quantize_rows() const {
    const Matrix x = matrix("x");
    return {rows_in_use(x.rows),
            size(x.columns),
            input("x"),
            static_cast<std::int8_t*>(address(result())),
            static_cast<float*>(address(result("scale"))),
            static_cast<std::int32_t*>(address(result("zero")))};
}

// The graph has bf16 in the place of f8.
cpu::QuantizeRowsF8Args Binder::quantize_rows_f8() const {
    const Matrix x = matrix("x");
    return {rows_in_use(x.rows), size(x.columns), input("x"), static_cast<cpu::bf16_bits*>(address(result())),
            static_cast<float*>(address(result("scale")))};
}

cpu::GroupedLinearArgs Binder::grouped_linear() {
    const Shape& in = value("x").shape;
    cpu::GroupedLinearArgs args;
    args.rows = rows_in_use(in[0]);
    args.groups = size(in[1]);
    args.depth = size(in[2]);
    args.columns = size(tensor("weight").shape[1]);
    args.x = input("x");
    args.weight = packed("weight", args.x.dtype, args.groups, args.columns, 1, args.depth);
    args.bias = optional_constant("bias");
    args.y = output();
    args.quantisation = quantisation();
    return args;
}

cpu::LayerNormArgs Binder::layer_norm() {
    const Matrix x = matrix("x");
    return {rows_in_use(x.rows),         size(x.columns),           eps(),   input("x"),
            optional_constant("weight"), optional_constant("bias"), output()};
}

cpu::RmsNormArgs Binder::rms_norm() {
    const Matrix x = matrix("x");
    return {rows_in_use(x.rows), size(x.columns), eps(), input("x"), constant("weight"), activation(), output()};
}

cpu::RmsNormRopeArgs Binder::rms_norm_rope() {
    const Matrix x = matrix("x");
    return {size(x.rows),       heads(),         size(x.columns) / heads(), eps(),   input("x"),
            constant("weight"), constant("cos"), constant("sin"),           output()};
}

cpu::SelfAttentionArgs Binder::self_attention() const {
    const Matrix q = matrix("q");
    return {size(q.rows), heads(), size(q.columns) / heads(), scale(), input("q"), input("k"), input("v"), output()};
}

cpu::CrossAttentionArgs Binder::cross_attention() const {
    const Matrix q = matrix("q");
    cpu::CrossAttentionArgs args;
    args.tokens = size(q.rows);
    args.heads = heads();
    args.head_width = size(q.columns) / heads();
    args.text_rows = size(matrix("key_text").rows);
    args.proprio_rows = has_input("key_proprio") ? size(matrix("key_proprio").rows) : 0;
    args.scale = scale();
    args.q = input("q");
    args.key_text = input("key_text");
    args.value_text = input("value_text");
    args.key_bias = static_cast<const float*>(address(value("key_bias")));
    args.key_count = static_cast<const std::int32_t*>(address(value("key_count")));
    args.key_proprio = optional_input("key_proprio");
    args.value_proprio = optional_input("value_proprio");
    args.y = output();
    return args;
}

cpu::CrossAttentionFoldedArgs Binder::cross_attention_folded() {
    const Matrix q = matrix("q");
    cpu::CrossAttentionFoldedArgs args;
    args.tokens = size(q.rows);
    args.heads = heads();
    args.head_width = size(q.columns) / heads();
    args.columns = size(matrix("output_text").columns) / heads();
    args.text_rows = size(matrix("key_text").rows);
    args.proprio_rows = has_input("key_proprio") ? size(matrix("key_proprio").rows) : 0;
    args.scale = scale();
    args.q = input("q");
    args.key_text = input("key_text");
    args.output_text = input("output_text");
    args.key_bias = static_cast<const float*>(address(value("key_bias")));
    args.key_count = static_cast<const std::int32_t*>(address(value("key_count")));
    args.key_proprio = optional_input("key_proprio");
    args.output_proprio = optional_input("output_proprio");
    args.bias = optional_constant("bias");
    args.residual = optional_input("residual");
    args.y = output();
    return args;
}

cpu::TextKeyBiasArgs Binder::text_key_bias() const {
    return {size(graph_.policy.context_rows), static_cast<const std::int32_t*>(address(value("text_rows"))),
            static_cast<float*>(address(result("key_bias"))), static_cast<std::int32_t*>(address(result("key_count")))};
}

cpu::LearnedQueryPoolArgs Binder::learned_query_pool() {
    const Matrix x = matrix("x");
    cpu::LearnedQueryPoolArgs args;
    args.tokens = size(x.rows);
    args.width = size(x.columns);
    args.heads = heads();
    args.queries = size(op_->attributes.queries);
    args.slots = size(tensor("merge").shape[0]);
    args.eps = eps();
    args.x = input("x");
    const bool bf16 = args.x.dtype == cpu::DType::bf16 && tensor("scores").dtype == engine::DType::bf16;
    args.scores_compute = bf16 ? cpu::DType::bf16 : cpu::DType::f32;
    args.scores = packed("scores", args.scores_compute, 1, args.heads * args.queries, 1, args.width);
    args.merge = constant("merge");
    args.y = output();
    return args;
}

cpu::MeanPoolArgs Binder::mean_pool() const {
    const Matrix x = matrix("x");
    return {size(x.rows), size(x.columns), input("x"), output()};
}

cpu::AddArgs Binder::add(bool subtract) {
    cpu::AddArgs args;
    const Matrix out = engine::matrix_view(result().shape);
    args.rows = size(out.rows);
    args.columns = size(out.columns);
    args.subtract = subtract;
    args.a = has_input("a") ? input("a") : cpu::Input{constant("a"), cpu::DType::f32};
    args.b = has_input("b") ? input("b") : cpu::Input{constant("b"), cpu::DType::f32};
    const Matrix b = has_input("b") ? matrix("b") : engine::matrix_view(tensor("b").shape);
    args.broadcast_b = b.rows == 1 && out.rows != 1;
    args.y = output();
    return args;
}

ConcatStep Binder::concat() const {
    ConcatStep step;
    for (std::size_t i = 0; i < op_->inputs.size(); ++i) {
        const std::string role = "x." + std::to_string(i);
        step.inputs.push_back({input(role), size(matrix(role).columns)});
    }
    step.args.rows = size(matrix("x.0").rows);
    step.args.count = step.inputs.size();
    step.args.y = output();
    return step;
}

cpu::ScaleShiftClampArgs Binder::scale_shift_clamp() {
    const Matrix x = matrix("x");
    return {size(x.rows),
            size(x.columns),
            input("x"),
            constant("scale"),
            constant("shift"),
            static_cast<float>(op_->attributes.minimum),
            static_cast<float>(op_->attributes.maximum),
            output()};
}

cpu::GripperRuleArgs Binder::gripper_rule() const {
    const Matrix x = matrix("x");
    return {size(x.rows), size(x.columns), size(op_->attributes.column), input("x"), output()};
}

cpu::CastArgs Binder::cast() const {
    const Matrix x = matrix("x");
    return {rows_in_use(x.rows) * size(x.columns), input("x"), output()};
}

}  // namespace

std::vector<Step> bind_program(const engine::Graph& graph, const engine::Program& program, const Bases& bases,
                               Weights& weights, const RowsInUse& rows) {
    return Binder(graph, program, bases, weights, rows).run();
}

std::size_t scratch_bytes(const std::vector<Step>& steps, const cpu::KernelTable& kernels, int threads) {
    std::size_t largest = 0;
    for (const Step& step : steps) {
        std::visit(
            [&](const auto& args) {
                if constexpr (requires { cpu::scratch_bytes(kernels, threads, args); })
                    largest = std::max(largest, cpu::scratch_bytes(kernels, threads, args));
            },
            step.args);
    }
    return largest;
}

void run_step(const cpu::Execution& execution, const Step& step) noexcept {
    std::visit(
        [&](const auto& args) {
            if constexpr (std::is_same_v<std::decay_t<decltype(args)>, ConcatStep>) {
                cpu::ConcatArgs concat = args.args;
                concat.inputs = args.inputs.data();
                cpu::run(execution, concat);
            } else {
                cpu::run(execution, args);
            }
        },
        step.args);
}

}  // namespace lightwam::runtime
