// SPDX-License-Identifier: Apache-2.0
// What the checks of single ops are written with: each role and attribute is taken once, and nothing may be left over.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/graph.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {

// A value or constant that an op reads or writes.
struct Operand {
    std::string label;  // "input 'x'"
    const Shape* shape = nullptr;
    DType dtype = DType::f32;
    const Value* value = nullptr;  // null for a constant

    Matrix matrix() const { return matrix_view(*shape); }
};

// The numbers that a role holds: f32, bf16 or f16, or integers of one width, or numbers with a scale (i8 or f8).
enum class Numbers : std::uint8_t { real, i32, i8, eight_bit };

class OpChecker {
  public:
    OpChecker(const Graph& graph, const Program& program, Op& op, ObjectReader attributes)
        : graph_(graph),
          program_(program),
          op_(op),
          attributes_(std::move(attributes)),
          taken_inputs_(op.inputs.size(), false),
          taken_constants_(op.constants.size(), false),
          taken_outputs_(op.outputs.size(), false) {}

    const PolicyDescription& policy() const { return graph_.policy; }
    Op& op() { return op_; }
    bool in_act() const { return &program_ == &graph_.act; }

    // Operands by role. Inputs are f32, bf16 or f16 unless taken as integers; constants are f32 unless `any_float`.
    Operand input(const std::string& role);
    std::optional<Operand> optional_input(const std::string& role);
    Operand integer_input(const std::string& role, Numbers numbers = Numbers::i32);
    bool is_eight_bit_input(const std::string& role) const;
    Operand constant(const std::string& role, bool any_float = false);
    std::optional<Operand> optional_constant(const std::string& role, bool any_float = false);
    Operand eight_bit_constant(const std::string& role, DType dtype);
    Operand input_or_constant(const std::string& role);
    Operand output(const std::string& role = "y");
    Operand integer_output(const std::string& role, Numbers numbers = Numbers::i32);

    // Each takes an attribute, checks it and stores it in op().attributes.
    std::int64_t integer(const std::string& key, std::int64_t minimum, std::int64_t maximum);
    double positive(const std::string& key);
    double bound(const std::string& key, double absent);  // `absent` where the file says null
    void activation();
    void padding();

    void expect_shape(const Operand& operand, const Shape& shape) const;
    void expect_matrix(const Operand& operand, const Matrix& matrix) const;
    void expect_rank(const Operand& operand, std::size_t rank) const;
    void expect_f32(const Operand& operand) const;
    void expect_same_dtype(const Operand& a, const Operand& b) const;
    // Fails on factors of a matmul that do not fit: both of one type, or x f32 and the weight bf16.
    void expect_factors(const Operand& x, const Operand& weight) const;
    [[noreturn]] void fail(const std::string& why) const { attributes_.fail(why); }

    // Fails on roles and attributes that were not taken.
    void finish() const;

  private:
    std::optional<std::size_t> take(const std::vector<Binding>& bindings, const char* kind, const std::string& role);
    std::size_t require(const std::vector<Binding>& bindings, const char* kind, const std::string& role);
    Operand value_operand(std::size_t index, const char* kind, const std::string& role, Numbers numbers) const;
    Operand tensor_operand(std::size_t index, const std::string& role) const;
    const JsonValue& attribute(const std::string& key);
    std::vector<bool>& taken_of(const std::vector<Binding>& bindings);

    const Graph& graph_;
    const Program& program_;
    Op& op_;
    ObjectReader attributes_;         // where: the op
    std::vector<bool> taken_inputs_;  // by place in op_.inputs
    std::vector<bool> taken_constants_;
    std::vector<bool> taken_outputs_;
    std::vector<std::string> taken_attributes_;
};

// Checks roles, shapes, dtypes and attributes of one op, and stores its attributes (op_table.cpp).
void check_op(OpChecker& checker);

// True when an output of this op may take the place of the input with this role.
bool allows_in_place(OpKind kind, std::string_view role) noexcept;

}  // namespace lightwam::engine
