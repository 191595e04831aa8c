// SPDX-License-Identifier: Apache-2.0
// How much a program computes, counted from its ops, and the bound on it.
#include <cstdio>

#include "engine/graph_reader.hpp"

namespace lightwam::engine {
namespace {

// Of one chunk or one instruction; the full-size policies need 2e12.
constexpr double kMaxOperations = 1e14;
// For each element that an op reads or writes, and for each probability of an attention.
constexpr double kPerElement = 16.0;

class OpWork {
  public:
    OpWork(const Graph& graph, const Program& program, const Op& op) : graph_(graph), program_(program), op_(op) {}

    double operations() const { return kPerElement * (elements() + probabilities()) + 2.0 * multiply_adds(); }

  private:
    const Shape& shape(const char* role) const { return program_.values[find_role(op_.inputs, role)].shape; }
    const Shape& constant(const char* role) const { return graph_.tensors[find_role(op_.constants, role)].shape; }
    double rows(const char* role) const { return static_cast<double>(matrix_view(shape(role)).rows); }
    double columns(const char* role) const { return static_cast<double>(matrix_view(shape(role)).columns); }
    double attribute(const char* name) const { return op_.attributes.numbers.at(name); }
    static double count(const Shape& shape) { return static_cast<double>(element_count(shape)); }

    double elements() const {
        if (op_.kind == OpKind::reshape) return 0.0;
        double sum = 0.0;
        for (const Binding& input : op_.inputs) sum += count(program_.values[input.index].shape);
        for (const Binding& output : op_.outputs) sum += count(program_.values[output.index].shape);
        for (const Binding& constant : op_.constants) sum += count(graph_.tensors[constant.index].shape);
        return sum;
    }

    double keys() const {
        if (op_.kind == OpKind::self_attention) return rows("q");
        return rows("key_text") + (find_role(op_.inputs, "key_proprio") == npos ? 0.0 : rows("key_proprio"));
    }

    double probabilities() const {
        switch (op_.kind) {
            case OpKind::self_attention:
            case OpKind::cross_attention:
            case OpKind::cross_attention_folded:
                return rows("q") * keys() * attribute("heads");
            case OpKind::learned_query_pool:
                return rows("x") * attribute("heads") * attribute("queries");
            default:
                return 0.0;
        }
    }

    double multiply_adds() const {
        switch (op_.kind) {
            case OpKind::conv2d: {
                const Shape& y = program_.values[op_.outputs[0].index].shape;
                return static_cast<double>(y[0]) * static_cast<double>(y[1]) * count(constant("weight"));
            }
            case OpKind::linear:
                return rows("x") * count(constant("weight"));
            case OpKind::grouped_linear:
                return static_cast<double>(shape("x")[0]) * count(constant("weight"));
            case OpKind::self_attention:
            case OpKind::cross_attention:
                return 2.0 * rows("q") * keys() * columns("q");
            case OpKind::cross_attention_folded:
                return rows("q") * keys() * (columns("q") + columns("output_text"));
            case OpKind::learned_query_pool: {
                const double slots = static_cast<double>(constant("merge")[0]);
                return rows("x") * attribute("heads") *
                       (columns("x") * (attribute("queries") + slots) + slots * attribute("queries"));
            }
            default:
                return 0.0;
        }
    }

    const Graph& graph_;
    const Program& program_;
    const Op& op_;
};

std::string number_text(double number) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3g", number);
    return text;
}

}  // namespace

void check_work(const Graph& graph, const Program& program, const std::string& where) {
    double total = 0.0;
    double most = 0.0;
    const Op* costliest = nullptr;
    for (const Op& op : program.ops) {
        const double operations = OpWork(graph, program, op).operations();
        total += operations;
        if (operations <= most) continue;
        most = operations;
        costliest = &op;
    }
    if (total > kMaxOperations)
        fail(where + " needs " + number_text(total) + " operations, op '" + costliest->name + "' (" +
             op_name(costliest->kind) + ") alone " + number_text(most) + "; expected at most " +
             number_text(kMaxOperations));
}

}  // namespace lightwam::engine
