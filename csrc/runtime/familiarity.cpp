// SPDX-License-Identifier: Apache-2.0
#include "runtime/familiarity.hpp"

#include <cmath>
#include <cstdio>
#include <limits>

#include "engine/error_reporter.hpp"

namespace lightwam::runtime {
namespace {

constexpr std::size_t kNamed = 4;  // numbers or words that a message names

// A range that is narrower counts as one number, around which 1 unit is near: as the normaliser does it
// (python/lightwam/data/normalize.py).
constexpr double kNarrow = 1e-4;

float rounded(double limit) {
    constexpr double kLargest = std::numeric_limits<float>::max();
    return static_cast<float>(std::fmin(std::fmax(limit, -kLargest), kLargest));
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.4g", value);
    return text;
}

std::string describe(const DimensionInfo& dimension, std::size_t index, float value) {
    const std::string unit = dimension.unit == "1" ? "" : " " + dimension.unit;
    return "state[" + std::to_string(index) + "] (" + dimension.name + ") is " + number(static_cast<double>(value)) +
           unit + ", in training " + number(dimension.minimum) + " to " + number(dimension.maximum) + unit;
}

std::string and_more(std::size_t count) {
    return count > kNamed ? ", and " + std::to_string(count - kNamed) + " more" : "";
}

void to_standard_error(const std::string& message) { std::fprintf(stderr, "lightwam: warning: %s\n", message.c_str()); }

}  // namespace

Familiarity::Familiarity(const engine::Graph& graph, const PolicyOptions& options)
    : state_(graph.policy.state), engine_(graph.name), on_warning_(options.on_warning) {
    if (options.unfamiliar != "warn" && options.unfamiliar != "error" && options.unfamiliar != "ignore")
        throw Error(ErrorKind::observation,
                    "unfamiliar is '" + options.unfamiliar + "'; expected 'warn', 'error' or 'ignore'");
    if (!on_warning_) on_warning_ = to_standard_error;
    refuses_ = options.unfamiliar == "error";
    checks_words_ = options.unfamiliar != "ignore";
    if (options.unfamiliar == "ignore") return;
    for (const DimensionInfo& dimension : state_) {
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        const double width = dimension.maximum - dimension.minimum;
        const double margin = !dimension.has_range ? kInfinity : width < kNarrow ? 1.0 : width;
        low_.push_back(rounded(dimension.minimum - margin));
        high_.push_back(rounded(dimension.maximum + margin));
    }
    told_.resize(low_.size());
}

bool Familiarity::is_news(const float* state, std::size_t index) const {
    return (state[index] < low_[index] || state[index] > high_[index]) && !told_[index];
}

// What was told is noted behind the report, so that a handler that throws is told again.
void Familiarity::check_state(const float* state) {
    std::string what;
    std::size_t count = 0;
    for (std::size_t i = 0; i < low_.size(); ++i) {
        if (!is_news(state, i)) continue;
        if (count++ < kNamed) what += (what.empty() ? "" : "; ") + describe(state_[i], i, state[i]);
    }
    if (count == 0) return;
    report(ErrorKind::observation, what + and_more(count) + ": far from what engine '" + engine_ +
                                       "' was trained on; check the units and the order of the state");
    for (std::size_t i = 0; i < low_.size(); ++i) told_[i] = told_[i] || is_news(state, i);
}

void Familiarity::check_words(const std::vector<std::string>& unseen, const std::string& text) {
    if (!checks_words_) return;
    std::string what;
    std::size_t count = 0;
    for (const std::string& word : unseen) {
        if (told_words_.contains(word)) continue;
        if (count++ < kNamed) what += (what.empty() ? "'" : ", '") + word + "'";
    }
    if (count == 0) return;
    report(ErrorKind::instruction, "the text encoder of engine '" + engine_ + "' never saw " + what + and_more(count) +
                                       " in training; use the words of its instructions, not '" + text + "'");
    told_words_.insert(unseen.begin(), unseen.end());
}

void Familiarity::report(ErrorKind kind, const std::string& what) const {
    if (refuses_) throw Error(kind, what + " (unfamiliar='warn' goes on)");
    on_warning_(engine::one_line(what));
}

}  // namespace lightwam::runtime
