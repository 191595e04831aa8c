// SPDX-License-Identifier: Apache-2.0
#include "engine/op_checks.hpp"

#include <algorithm>
#include <cmath>

namespace lightwam::engine {
namespace {

constexpr std::int64_t kMaxPadding = 1 << 20;

std::string label_of(const char* kind, const std::string& role) { return std::string(kind) + " '" + role + "'"; }

struct NumbersRow {
    Numbers value;
    const char* name;
    bool (*holds)(DType);
};
constexpr NumbersRow kNumbers[] = {{Numbers::real, "f32, bf16 or f16", is_float},
                                   {Numbers::i32, "i32", [](DType dtype) { return dtype == DType::i32; }},
                                   {Numbers::i8, "i8", [](DType dtype) { return dtype == DType::i8; }},
                                   {Numbers::eight_bit, "i8 or f8", is_eight_bit}};

}  // namespace

std::optional<std::size_t> OpChecker::take(const std::vector<Binding>& bindings, const char* kind,
                                           const std::string& role) {
    const OpRow& row = op_row(op_.kind);
    const char* const roles = &bindings == &op_.inputs      ? row.inputs
                              : &bindings == &op_.constants ? row.constants
                                                            : row.outputs;
    if (!role_marks(roles, role))
        throw Error(ErrorKind::internal, std::string("ops.def: op ") + row.name + " lists no " + label_of(kind, role));
    const auto found = std::ranges::find(bindings, role, &Binding::role);
    if (found == bindings.end()) return std::nullopt;
    taken_of(bindings)[static_cast<std::size_t>(found - bindings.begin())] = true;
    return found->index;
}

std::vector<bool>& OpChecker::taken_of(const std::vector<Binding>& bindings) {
    return &bindings == &op_.inputs ? taken_inputs_ : &bindings == &op_.constants ? taken_constants_ : taken_outputs_;
}

std::size_t OpChecker::require(const std::vector<Binding>& bindings, const char* kind, const std::string& role) {
    const std::optional<std::size_t> index = take(bindings, kind, role);
    if (!index) fail(label_of(kind, role) + " is missing");
    return *index;
}

Operand OpChecker::value_operand(std::size_t index, const char* kind, const std::string& role, Numbers numbers) const {
    const Value& value = program_.values[index];
    Operand operand{label_of(kind, role), &value.shape, value.dtype, &value};
    const NumbersRow& expected = row_of(kNumbers, numbers);
    if (!expected.holds(value.dtype))
        fail(operand.label + " is " + dtype_name(value.dtype) + "; expected " + expected.name);
    return operand;
}

Operand OpChecker::tensor_operand(std::size_t index, const std::string& role) const {
    const Tensor& tensor = graph_.tensors[index];
    return {label_of("constant", role), &tensor.shape, tensor.dtype, nullptr};
}

Operand OpChecker::input(const std::string& role) { return integer_input(role, Numbers::real); }

std::optional<Operand> OpChecker::optional_input(const std::string& role) {
    if (!take(op_.inputs, "input", role)) return std::nullopt;
    return input(role);
}

Operand OpChecker::integer_input(const std::string& role, Numbers numbers) {
    return value_operand(require(op_.inputs, "input", role), "input", role, numbers);
}

bool OpChecker::is_eight_bit_input(const std::string& role) const {
    const std::size_t index = find_role(op_.inputs, role);
    return index != npos && is_eight_bit(program_.values[index].dtype);
}

Operand OpChecker::constant(const std::string& role, bool any_float) {
    const Operand operand = tensor_operand(require(op_.constants, "constant", role), role);
    if (!any_float) expect_f32(operand);
    if (!is_float(operand.dtype))
        fail(operand.label + " is " + dtype_name(operand.dtype) + "; expected " + row_of(kNumbers, Numbers::real).name);
    return operand;
}

std::optional<Operand> OpChecker::optional_constant(const std::string& role, bool any_float) {
    if (!take(op_.constants, "constant", role)) return std::nullopt;
    return constant(role, any_float);
}

Operand OpChecker::eight_bit_constant(const std::string& role, DType dtype) {
    const Operand operand = tensor_operand(require(op_.constants, "constant", role), role);
    if (operand.dtype != dtype)
        fail(operand.label + " is " + dtype_name(operand.dtype) + "; expected " + dtype_name(dtype));
    return operand;
}

Operand OpChecker::input_or_constant(const std::string& role) {
    const bool is_input = find_role(op_.inputs, role) != npos;
    const bool is_constant = find_role(op_.constants, role) != npos;
    if (is_input && is_constant) fail("'" + role + "' is an input and a constant; expected one of them");
    return is_constant ? constant(role) : input(role);
}

Operand OpChecker::output(const std::string& role) { return integer_output(role, Numbers::real); }

Operand OpChecker::integer_output(const std::string& role, Numbers numbers) {
    return value_operand(require(op_.outputs, "output", role), "output", role, numbers);
}

const JsonValue& OpChecker::attribute(const std::string& key) {
    const JsonValue* value = attributes_.find(key);
    if (value == nullptr) fail("attribute '" + key + "' is missing");
    taken_attributes_.push_back(key);
    return *value;
}

std::int64_t OpChecker::integer(const std::string& key, std::int64_t minimum, std::int64_t maximum) {
    attribute(key);
    const std::int64_t value = attributes_.integer(key, minimum, maximum);
    op_.attributes.numbers[key] = static_cast<double>(value);
    return value;
}

double OpChecker::positive(const std::string& key) {
    const JsonValue& value = attribute(key);
    const JsonValue::Number* number = value.number();
    if (number == nullptr) fail("attribute '" + key + "' is " + value.type_name() + "; expected a number");
    const float single = static_cast<float>(number->value);
    if (!std::isfinite(single) || !(single > 0.0F))
        fail("attribute '" + key + "' is " + std::to_string(number->value) + "; expected a positive finite f32");
    return op_.attributes.numbers[key] = number->value;
}

double OpChecker::bound(const std::string& key, double absent) {
    const JsonValue& value = attribute(key);
    if (value.is_null()) return op_.attributes.numbers[key] = absent;
    const JsonValue::Number* number = value.number();
    if (number == nullptr) fail("attribute '" + key + "' is " + value.type_name() + "; expected a number or null");
    if (!std::isfinite(static_cast<float>(number->value)))
        fail("attribute '" + key + "' is " + std::to_string(number->value) + "; expected a finite f32");
    return op_.attributes.numbers[key] = number->value;
}

void OpChecker::activation() {
    if (attribute("activation").string() == nullptr) fail("attribute 'activation' is no string");
    op_.attributes.activation = attributes_.known("activation", kActivations);
}

void OpChecker::padding() {
    attribute("padding");
    const std::vector<std::int64_t> values = attributes_.integers("padding");
    if (values.size() != 4) fail("padding has " + std::to_string(values.size()) + " numbers; expected 4");
    for (std::size_t i = 0; i < 4; ++i) {
        if (values[i] < 0 || values[i] > kMaxPadding)
            fail("padding " + std::to_string(values[i]) + " is out of range; expected 0 to 1048576");
        op_.attributes.padding[i] = values[i];
    }
}

void OpChecker::expect_shape(const Operand& operand, const Shape& shape) const {
    if (*operand.shape != shape)
        fail(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " + shape_text(shape));
}

void OpChecker::expect_matrix(const Operand& operand, const Matrix& matrix) const {
    if (operand.matrix() != matrix)
        fail(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " +
             shape_text({matrix.rows, matrix.columns}) + " as a matrix");
}

void OpChecker::expect_rank(const Operand& operand, std::size_t rank) const {
    if (operand.shape->size() != rank)
        fail(operand.label + " has shape " + shape_text(*operand.shape) + "; expected " + std::to_string(rank) +
             " dimensions");
}

void OpChecker::expect_f32(const Operand& operand) const {
    if (operand.dtype != DType::f32) fail(operand.label + " is " + dtype_name(operand.dtype) + "; expected f32");
}

void OpChecker::expect_same_dtype(const Operand& a, const Operand& b) const {
    if (a.dtype != b.dtype)
        fail(b.label + " is " + dtype_name(b.dtype) + "; expected " + dtype_name(a.dtype) + " like " + a.label);
}

void OpChecker::expect_factors(const Operand& x, const Operand& weight) const {
    const bool widened = x.dtype == DType::f32 && weight.dtype == DType::bf16;
    if (weight.dtype != x.dtype && !widened)
        fail(weight.label + " is " + dtype_name(weight.dtype) + "; expected " +
             (x.dtype == DType::f32 ? "f32 or bf16" : dtype_name(x.dtype)) + ", since " + x.label + " is " +
             dtype_name(x.dtype));
}

void OpChecker::finish() const {
    const auto expect_all = [&](const std::vector<Binding>& bindings, const std::vector<bool>& taken,
                                const char* kind) {
        for (std::size_t i = 0; i < bindings.size(); ++i)
            if (!taken[i]) fail(label_of(kind, bindings[i].role) + " is not one of this op");
    };
    expect_all(op_.inputs, taken_inputs_, "input");
    expect_all(op_.constants, taken_constants_, "constant");
    expect_all(op_.outputs, taken_outputs_, "output");
    for (const auto& [key, value] : attributes_.members())
        if (std::ranges::find(taken_attributes_, key) == taken_attributes_.end())
            fail(label_of("attribute", key) + " is not one of this op");
}

}  // namespace lightwam::engine
