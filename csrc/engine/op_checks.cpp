// SPDX-License-Identifier: Apache-2.0
#include "engine/op_checks.hpp"

#include <algorithm>
#include <cmath>

namespace lightwam::engine {
namespace {

constexpr std::int64_t kMaxPadding = 1 << 20;

std::string label_of(const char* kind, const std::string& role) { return std::string(kind) + " '" + role + "'"; }

bool holds(DType dtype, Numbers numbers) {
    if (numbers == Numbers::real) return is_float(dtype);
    if (numbers == Numbers::eight_bit) return is_eight_bit(dtype);
    return dtype == (numbers == Numbers::i32 ? DType::i32 : DType::i8);
}

const char* name_of(Numbers numbers) {
    static constexpr const char* kNames[] = {"f32, bf16 or f16", "i32", "i8", "i8 or f8"};
    return kNames[static_cast<int>(numbers)];
}

}  // namespace

std::optional<std::size_t> OpChecker::take(const std::vector<Binding>& bindings, const char* kind,
                                           const std::string& role) {
    const std::size_t index = find_role(bindings, role);
    if (index == npos) return std::nullopt;
    taken_.push_back(label_of(kind, role));
    return index;
}

Operand OpChecker::value_operand(std::size_t index, const char* kind, const std::string& role, Numbers numbers) const {
    const Value& value = program_.values[index];
    Operand operand{label_of(kind, role), &value.shape, value.dtype, &value};
    if (!holds(value.dtype, numbers))
        refuse(operand.label + " is " + dtype_name(value.dtype) + "; expected " + name_of(numbers));
    return operand;
}

Operand OpChecker::input(const std::string& role) {
    std::optional<Operand> operand = optional_input(role);
    if (!operand) refuse("input '" + role + "' is missing");
    return *operand;
}

std::optional<Operand> OpChecker::optional_input(const std::string& role) {
    const auto index = take(op_.inputs, "input", role);
    if (!index) return std::nullopt;
    return value_operand(*index, "input", role, Numbers::real);
}

Operand OpChecker::integer_input(const std::string& role, Numbers numbers) {
    const auto index = take(op_.inputs, "input", role);
    if (!index) refuse("input '" + role + "' is missing");
    return value_operand(*index, "input", role, numbers);
}

bool OpChecker::is_eight_bit_input(const std::string& role) const {
    const std::size_t index = find_role(op_.inputs, role);
    return index != npos && is_eight_bit(program_.values[index].dtype);
}

Operand OpChecker::constant(const std::string& role, bool any_float) {
    std::optional<Operand> operand = optional_constant(role, any_float);
    if (!operand) refuse("constant '" + role + "' is missing");
    return *operand;
}

std::optional<Operand> OpChecker::optional_constant(const std::string& role, bool any_float) {
    const auto index = take(op_.constants, "constant", role);
    if (!index) return std::nullopt;
    const Tensor& tensor = graph_.tensors[*index];
    Operand operand{label_of("constant", role), &tensor.shape, tensor.dtype, nullptr};
    if (!any_float && tensor.dtype != DType::f32)
        refuse(operand.label + " is " + dtype_name(tensor.dtype) + "; expected f32");
    if (!holds(tensor.dtype, Numbers::real))
        refuse(operand.label + " is " + dtype_name(tensor.dtype) + "; expected " + name_of(Numbers::real));
    return operand;
}

Operand OpChecker::eight_bit_constant(const std::string& role, DType dtype) {
    const auto index = take(op_.constants, "constant", role);
    if (!index) refuse("constant '" + role + "' is missing");
    const Tensor& tensor = graph_.tensors[*index];
    Operand operand{label_of("constant", role), &tensor.shape, tensor.dtype, nullptr};
    if (tensor.dtype != dtype)
        refuse(operand.label + " is " + dtype_name(tensor.dtype) + "; expected " + dtype_name(dtype));
    return operand;
}

Operand OpChecker::input_or_constant(const std::string& role) {
    const bool is_input = find_role(op_.inputs, role) != npos;
    const bool is_constant = find_role(op_.constants, role) != npos;
    if (is_input && is_constant) refuse("'" + role + "' is an input and a constant; expected one of them");
    if (!is_input && !is_constant) refuse("input '" + role + "' is missing");
    return is_input ? input(role) : constant(role);
}

Operand OpChecker::output(const std::string& role) {
    const auto index = take(op_.outputs, "output", role);
    if (!index) refuse("output '" + role + "' is missing");
    return value_operand(*index, "output", role, Numbers::real);
}

Operand OpChecker::integer_output(const std::string& role, Numbers numbers) {
    const auto index = take(op_.outputs, "output", role);
    if (!index) refuse("output '" + role + "' is missing");
    return value_operand(*index, "output", role, numbers);
}

const JsonValue& OpChecker::attribute(const std::string& key) {
    const JsonValue* value = attributes_.find(key);
    if (value == nullptr) refuse("attribute '" + key + "' is missing");
    taken_.push_back(label_of("attribute", key));
    return *value;
}

std::int64_t OpChecker::integer(const std::string& key, std::int64_t minimum, std::int64_t maximum) {
    attribute(key);
    return read_integer(attributes_, where_, key, minimum, maximum, refuse_);
}

double OpChecker::positive(const std::string& key) {
    const JsonValue& value = attribute(key);
    const JsonValue::Number* number = value.number();
    if (number == nullptr) refuse("attribute '" + key + "' is " + value.type_name() + "; expected a number");
    const float single = static_cast<float>(number->value);
    if (!std::isfinite(single) || !(single > 0.0F))
        refuse("attribute '" + key + "' is " + std::to_string(number->value) + "; expected a positive finite f32");
    return number->value;
}

double OpChecker::bound(const std::string& key, double absent) {
    const JsonValue& value = attribute(key);
    if (value.is_null()) return absent;
    const JsonValue::Number* number = value.number();
    if (number == nullptr) refuse("attribute '" + key + "' is " + value.type_name() + "; expected a number or null");
    if (!std::isfinite(static_cast<float>(number->value)))
        refuse("attribute '" + key + "' is " + std::to_string(number->value) + "; expected a finite f32");
    return number->value;
}

Activation OpChecker::activation() {
    static constexpr std::string_view kNames[] = {"none", "silu", "gelu", "gelu_tanh"};
    const std::string* name = attribute("activation").string();
    if (name == nullptr) refuse("attribute 'activation' is no string");
    for (int i = 0; i < 4; ++i)
        if (*name == kNames[i]) return static_cast<Activation>(i);
    refuse("activation '" + *name + "' is unknown; expected none, silu, gelu or gelu_tanh");
}

void OpChecker::padding() {
    const std::vector<std::int64_t> values = read_integers(&attribute("padding"), where_, "padding", refuse_);
    if (values.size() != 4) refuse("padding has " + std::to_string(values.size()) + " numbers; expected 4");
    for (std::size_t i = 0; i < 4; ++i) {
        if (values[i] < 0 || values[i] > kMaxPadding)
            refuse("padding " + std::to_string(values[i]) + " is out of range; expected 0 to 1048576");
        op_.attributes.padding[i] = values[i];
    }
}

void OpChecker::expect_shape(const Operand& operand, const Shape& shape) const {
    if (*operand.shape != shape)
        refuse(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " + shape_text(shape));
}

void OpChecker::expect_matrix(const Operand& operand, const Matrix& matrix) const {
    if (operand.matrix() != matrix)
        refuse(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " +
               shape_text({matrix.rows, matrix.columns}) + " as a matrix");
}

void OpChecker::expect_rank(const Operand& operand, std::size_t rank) const {
    if (operand.shape->size() != rank)
        refuse(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " + std::to_string(rank) +
               " dimensions");
}

void OpChecker::expect_f32(const Operand& operand) const {
    if (operand.dtype != DType::f32) refuse(operand.label + " is " + dtype_name(operand.dtype) + "; expected f32");
}

void OpChecker::expect_same_dtype(const Operand& a, const Operand& b) const {
    if (a.dtype != b.dtype)
        refuse(b.label + " is " + dtype_name(b.dtype) + "; expected " + dtype_name(a.dtype) + " like " + a.label);
}

void OpChecker::expect_product(const Operand& x, const Operand& weight) const {
    const bool widened = x.dtype == DType::f32 && weight.dtype == DType::bf16;
    if (weight.dtype != x.dtype && !widened)
        refuse(weight.label + " is " + dtype_name(weight.dtype) + "; expected " +
               (x.dtype == DType::f32 ? "f32 or bf16" : dtype_name(x.dtype)) + ", since " + x.label + " is " +
               dtype_name(x.dtype));
}

void OpChecker::finish(const std::vector<Binding>& bindings, const char* kind) const {
    for (const Binding& binding : bindings)
        if (std::find(taken_.begin(), taken_.end(), label_of(kind, binding.role)) == taken_.end())
            refuse(label_of(kind, binding.role) + " is not one of this op");
}

void OpChecker::finish() const {
    finish(op_.inputs, "input");
    finish(op_.constants, "constant");
    finish(op_.outputs, "output");
    for (const auto& [key, value] : *attributes_.object())
        if (std::find(taken_.begin(), taken_.end(), label_of("attribute", key)) == taken_.end())
            refuse(label_of("attribute", key) + " is not one of this op");
}

}  // namespace lightwam::engine
