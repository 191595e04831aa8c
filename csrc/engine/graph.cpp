// SPDX-License-Identifier: Apache-2.0
#include "engine/graph.hpp"

namespace lightwam::engine {

std::size_t dtype_bytes(DType dtype) noexcept {
    switch (dtype) {
        case DType::f32:
            return 4;
        case DType::bf16:
        case DType::f16:
            return 2;
        case DType::f8:
        case DType::i8:
            return 1;
        case DType::i32:
            return 4;
    }
    return 4;
}

const char* dtype_name(DType dtype) noexcept {
    static constexpr const char* kNames[] = {"f32", "bf16", "f16", "f8", "i8", "i32"};
    return kNames[static_cast<int>(dtype)];
}

bool is_float(DType dtype) noexcept { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

const char* op_name(OpKind kind) noexcept {
    static constexpr const char* kNames[] = {
        "preprocess_images",
        "nchw_to_nhwc",
        "conv2d",
        "linear",
        "quantize_rows",
        "grouped_linear",
        "layer_norm",
        "rms_norm",
        "rms_norm_rope",
        "self_attention",
        "cross_attention",
        "cross_attention_folded",
        "text_key_bias",
        "learned_query_pool",
        "mean_pool",
        "add",
        "subtract",
        "concat",
        "scale_shift_clamp",
        "gripper_rule",
        "cast",
        "reshape",
    };
    static_assert(sizeof(kNames) / sizeof(kNames[0]) == kOpKindCount);
    return kNames[static_cast<int>(kind)];
}

const char* precision_name(Precision precision) noexcept {
    static constexpr const char* kNames[] = {"f32", "bf16", "f16", "int8", "fp8"};
    return kNames[static_cast<int>(precision)];
}

std::string shape_text(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + "]";
}

std::int64_t element_count(const Shape& shape) noexcept {
    if (shape.empty() || shape.size() > kMaxRank) return -1;
    std::int64_t count = 1;
    for (const std::int64_t dimension : shape) {
        if (dimension < 1 || dimension > kMaxElements / count) return -1;
        count *= dimension;
    }
    return count;
}

std::size_t find_role(const std::vector<Binding>& bindings, std::string_view role) noexcept {
    for (const Binding& binding : bindings)
        if (binding.role == role) return binding.index;
    return npos;
}

Matrix matrix_view(const Shape& shape) noexcept {
    Matrix matrix;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) matrix.rows *= shape[i];
    if (!shape.empty()) matrix.columns = shape.back();
    return matrix;
}

}  // namespace lightwam::engine
