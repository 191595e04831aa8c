// SPDX-License-Identifier: Apache-2.0
#include "runtime/binder.hpp"

#include <algorithm>
#include <string>
#include <string_view>

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

// Both have the same enumerators in the same order.
static_assert(static_cast<int>(engine::Activation::silu) == static_cast<int>(cpu::Activation::silu) &&
              static_cast<int>(engine::Activation::gelu) == static_cast<int>(cpu::Activation::gelu) &&
              static_cast<int>(engine::Activation::gelu_tanh) == static_cast<int>(cpu::Activation::gelu_tanh));

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

template <class Args>
class KernelOf : public BoundKernel {
  public:
    explicit KernelOf(const Args& args) : args_(args) {}
    void run(const cpu::Execution& execution) const noexcept final { cpu::run(execution, args_); }
    std::size_t scratch_bytes(const cpu::KernelTable& kernels, int threads) const noexcept final {
        if constexpr (requires { cpu::scratch_bytes(kernels, threads, args_); })
            return cpu::scratch_bytes(kernels, threads, args_);
        return 0;
    }

  private:
    Args args_;
};

// With its own list of inputs.
class ConcatKernel final : public KernelOf<cpu::ConcatArgs> {
  public:
    ConcatKernel(std::size_t rows, std::vector<cpu::ConcatInput> inputs, cpu::Output y)
        : KernelOf({rows, inputs.data(), inputs.size(), y}), inputs_(std::move(inputs)) {}

  private:
    std::vector<cpu::ConcatInput> inputs_;  // moved, not copied: their address stays
};

class Binder {
  public:
    Binder(const engine::Graph& graph, const engine::Program& program, const Bases& bases, Weights& weights,
           const RowsInUse& rows)
        : graph_(graph), program_(program), bases_(bases), weights_(weights), rows_(rows) {}

    std::vector<Step> run() {
        steps_.reserve(program_.ops.size());
        for (std::size_t i = 0; i < program_.ops.size(); ++i) {
            op_ = &program_.ops[i];
            some_rows_ = rows_.ops != nullptr && (*rows_.ops)[i];
            bind();
        }
        return std::move(steps_);
    }

  private:
    // One function an op, which adds its step.
#define LIGHTWAM_OP(name, inputs, constants, outputs, rows) void name();
#include "engine/ops.def"

    void bind() {
        switch (op_->kind) {
#define LIGHTWAM_OP(name, inputs, constants, outputs, rows) \
    case OpKind::name:                                      \
        return name();
#include "engine/ops.def"
        }
    }

    template <class Args>
    void add_step(const Args& args) {
        steps_.push_back({op_->stage, std::make_unique<KernelOf<Args>>(args), op_});
    }

    const Value& value(std::string_view role) const { return program_.values[engine::find_role(op_->inputs, role)]; }
    const Value& result(std::string_view role = "y") const {
        return program_.values[engine::find_role(op_->outputs, role)];
    }
    bool has_input(std::string_view role) const { return engine::find_role(op_->inputs, role) != engine::npos; }
    const Tensor& tensor(std::string_view role) const {
        return graph_.tensors[engine::find_role(op_->constants, role)];
    }
    Matrix matrix(std::string_view role) const { return engine::matrix_view(value(role).shape); }
    std::size_t rows(std::string_view role) const { return size(matrix(role).rows); }
    std::size_t columns(std::string_view role) const { return size(matrix(role).columns); }
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
    template <class T>
    T* address_of(const Value& value) const {
        return static_cast<T*>(address(value));
    }
    cpu::Input input(std::string_view role) const { return {address(value(role)), kernel_dtype(value(role).dtype)}; }
    cpu::Input optional_input(std::string_view role) const { return has_input(role) ? input(role) : cpu::Input{}; }
    cpu::Output output() const { return {address(result()), kernel_dtype(result().dtype)}; }
    const float* constant(std::string_view role) {
        return reinterpret_cast<const float*>(weights_.raw(engine::find_role(op_->constants, role)));
    }
    const float* optional_constant(std::string_view role) {
        return engine::find_role(op_->constants, role) != engine::npos ? constant(role) : nullptr;
    }
    // `shape`: but for the dtype in the file.
    const std::byte* packed(std::string_view role, cpu::WeightSource shape) {
        shape.dtype = kernel_dtype(tensor(role).dtype);
        return weights_.packed(engine::find_role(op_->constants, role), shape);
    }
    // An attribute that is a number, and one that is a whole number.
    float number(const char* name) const { return static_cast<float>(op_->attributes.numbers.at(name)); }
    std::size_t count(const char* name) const { return static_cast<std::size_t>(op_->attributes.numbers.at(name)); }
    float eps() const { return number("eps"); }
    float scale() const { return number("scale"); }
    std::size_t heads() const { return count("heads"); }
    cpu::Activation activation() const { return static_cast<cpu::Activation>(op_->attributes.activation); }

    void bind_matmul(std::int64_t rows, std::int64_t groups, std::int64_t depth, std::int64_t columns);
    cpu::Quantisation quantisation();
    void bind_keys(cpu::CrossAttentionKeys& keys) const;
    void bind_sum(bool subtract);

    const engine::Graph& graph_;
    const engine::Program& program_;
    const Bases& bases_;
    Weights& weights_;
    const RowsInUse& rows_;
    std::vector<Step> steps_;
    const Op* op_ = nullptr;
    bool some_rows_ = false;
};

void Binder::preprocess_images() {
    const engine::PolicyDescription& policy = graph_.policy;
    add_step(cpu::PreprocessImagesArgs{size(policy.canvas_height), size(policy.canvas_width), bases_.cameras,
                                       bases_.camera_count, output()});
}

void Binder::nchw_to_nhwc() {
    const Shape& shape = value("x").shape;
    add_step(cpu::NchwToNhwcArgs{size(shape[0]), size(shape[1] * shape[2]), input("x"), output()});
}

void Binder::conv2d() {
    const Shape& in = value("x").shape;
    const Shape& w = tensor("weight").shape;
    cpu::Conv2dArgs args;
    args.height = size(in[0]);
    args.width = size(in[1]);
    args.in_channels = size(in[2]);
    args.out_channels = size(w[0]);
    args.kernel_height = size(w[1]);
    args.kernel_width = size(w[2]);
    args.stride = count("stride");
    args.padding_top = size(op_->attributes.padding[0]);
    args.padding_left = size(op_->attributes.padding[1]);
    args.padding_bottom = size(op_->attributes.padding[2]);
    args.padding_right = size(op_->attributes.padding[3]);
    args.x = input("x");
    args.form = cpu::conv_form(args);
    args.weight = packed("weight", {.compute = args.x.dtype,
                                    .rows = args.out_channels,
                                    .taps = args.kernel_height * args.kernel_width,
                                    .depth = args.in_channels,
                                    .form = args.form});
    args.bias = optional_constant("bias");
    args.activation = activation();
    args.residual = optional_input("residual");
    args.y = output();
    add_step(args);
}

void Binder::linear() {
    const Matrix x = matrix("x");
    bind_matmul(x.rows, 1, x.columns, tensor("weight").shape[0]);
}

void Binder::grouped_linear() {
    const Shape& in = value("x").shape;
    bind_matmul(in[0], in[1], in[2], tensor("weight").shape[1]);
}

void Binder::bind_matmul(std::int64_t rows, std::int64_t groups, std::int64_t depth, std::int64_t columns) {
    cpu::LinearArgs args;
    args.rows = rows_in_use(rows);
    args.depth = size(depth);
    args.columns = size(columns);
    args.groups = size(groups);
    args.x = input("x");
    args.weight =
        packed("weight", {.compute = args.x.dtype, .groups = args.groups, .rows = args.columns, .depth = args.depth});
    args.bias = optional_constant("bias");
    args.activation = activation();
    args.residual = optional_input("residual");
    args.y = output();
    args.quantisation = quantisation();
    add_step(args);
}

// Of a matmul whose x is i8 or f8; else nothing.
cpu::Quantisation Binder::quantisation() {
    if (!has_input("x_scale")) return {};
    return {address_of<const float>(value("x_scale")),
            has_input("x_zero") ? address_of<const std::int32_t>(value("x_zero")) : nullptr, constant("weight_scale")};
}

// Where the file says f8 the graph has bf16.
void Binder::quantize_rows() {
    const std::size_t rows = rows_in_use(matrix("x").rows);
    auto* const scales = address_of<float>(result("scale"));
    if (result().dtype == engine::DType::i8)
        add_step(cpu::QuantizeRowsArgs{rows, columns("x"), input("x"), address_of<std::int8_t>(result()), scales,
                                       address_of<std::int32_t>(result("zero"))});
    else
        add_step(cpu::QuantizeRowsF8Args{rows, columns("x"), input("x"), address_of<cpu::bf16_bits>(result()), scales});
}

void Binder::layer_norm() {
    add_step(cpu::LayerNormArgs{rows_in_use(matrix("x").rows), columns("x"), eps(), input("x"),
                                optional_constant("weight"), optional_constant("bias"), output()});
}

void Binder::rms_norm() {
    add_step(cpu::RmsNormArgs{rows_in_use(matrix("x").rows), columns("x"), eps(), input("x"), constant("weight"),
                              activation(), output()});
}

void Binder::rms_norm_rope() {
    add_step(cpu::RmsNormRopeArgs{rows("x"), heads(), columns("x") / heads(), eps(), input("x"), constant("weight"),
                                  constant("cos"), constant("sin"), output()});
}

void Binder::self_attention() {
    add_step(cpu::SelfAttentionArgs{rows("q"), heads(), columns("q") / heads(), scale(), input("q"), input("k"),
                                    input("v"), output()});
}

void Binder::bind_keys(cpu::CrossAttentionKeys& keys) const {
    keys.tokens = rows("q");
    keys.heads = heads();
    keys.head_width = columns("q") / heads();
    keys.text_rows = rows("key_text");
    keys.proprio_rows = has_input("key_proprio") ? rows("key_proprio") : 0;
    keys.scale = scale();
    keys.q = input("q");
    keys.key_text = input("key_text");
    keys.key_bias = address_of<const float>(value("key_bias"));
    keys.key_count = address_of<const std::int32_t>(value("key_count"));
    keys.key_proprio = optional_input("key_proprio");
}

void Binder::cross_attention() {
    cpu::CrossAttentionArgs args;
    bind_keys(args);
    args.value_text = input("value_text");
    args.value_proprio = optional_input("value_proprio");
    args.y = output();
    add_step(args);
}

void Binder::cross_attention_folded() {
    cpu::CrossAttentionFoldedArgs args;
    bind_keys(args);
    args.columns = columns("output_text") / heads();
    args.output_text = input("output_text");
    args.output_proprio = optional_input("output_proprio");
    args.bias = optional_constant("bias");
    args.residual = optional_input("residual");
    args.y = output();
    add_step(args);
}

void Binder::text_key_bias() {
    add_step(cpu::TextKeyBiasArgs{size(graph_.policy.context_rows), address_of<const std::int32_t>(value("text_rows")),
                                  address_of<float>(result("key_bias")),
                                  address_of<std::int32_t>(result("key_count"))});
}

void Binder::learned_query_pool() {
    cpu::LearnedQueryPoolArgs args;
    args.tokens = rows("x");
    args.width = columns("x");
    args.heads = heads();
    args.queries = count("queries");
    args.slots = size(tensor("merge").shape[0]);
    args.eps = eps();
    args.x = input("x");
    const bool bf16 = args.x.dtype == cpu::DType::bf16 && tensor("scores").dtype == engine::DType::bf16;
    args.scores_compute = bf16 ? cpu::DType::bf16 : cpu::DType::f32;
    args.scores =
        packed("scores", {.compute = args.scores_compute, .rows = args.heads * args.queries, .depth = args.width});
    args.merge = constant("merge");
    args.y = output();
    add_step(args);
}

void Binder::mean_pool() { add_step(cpu::MeanPoolArgs{rows("x"), columns("x"), input("x"), output()}); }

void Binder::add() { bind_sum(false); }

void Binder::subtract() { bind_sum(true); }

void Binder::bind_sum(bool subtract) {
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
    add_step(args);
}

void Binder::concat() {
    std::vector<cpu::ConcatInput> inputs;
    for (std::size_t i = 0; i < op_->inputs.size(); ++i) {
        const std::string role = "x." + std::to_string(i);
        inputs.push_back({input(role), columns(role)});
    }
    steps_.push_back({op_->stage, std::make_unique<ConcatKernel>(rows("x.0"), std::move(inputs), output()), op_});
}

void Binder::scale_shift_clamp() {
    add_step(cpu::ScaleShiftClampArgs{rows("x"), columns("x"), input("x"), constant("scale"), constant("shift"),
                                      number("minimum"), number("maximum"), output()});
}

void Binder::gripper_rule() {
    add_step(cpu::GripperRuleArgs{rows("x"), columns("x"), count("column"), input("x"), output()});
}

void Binder::cast() { add_step(cpu::CastArgs{rows_in_use(matrix("x").rows) * columns("x"), input("x"), output()}); }

// Its output lies on the bytes of its input.
void Binder::reshape() {}

}  // namespace

std::vector<Step> bind_program(const engine::Graph& graph, const engine::Program& program, const Bases& bases,
                               Weights& weights, const RowsInUse& rows) {
    return Binder(graph, program, bases, weights, rows).run();
}

std::size_t scratch_bytes(const std::vector<Step>& steps, const cpu::KernelTable& kernels, int threads) {
    std::size_t largest = 0;
    for (const Step& step : steps) largest = std::max(largest, step.kernel->scratch_bytes(kernels, threads));
    return largest;
}

}  // namespace lightwam::runtime
