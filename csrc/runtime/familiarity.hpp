// SPDX-License-Identifier: Apache-2.0
// Is what a policy is given like what it was trained on? Engines may carry the range of each number of the state, and
// the words that the text encoder saw (engine-format.md, section 2). Older ones do not; then nothing is checked.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::runtime {

class Familiarity {
  public:
    // Throws Error (observation) when options.unfamiliar is unknown.
    Familiarity(const engine::Graph& graph, const PolicyOptions& options);

    // Reports, once each, the numbers of a state [P] that lie far outside of their range. Allocates nothing while none
    // does. Throws Error (observation) where the policy shall refuse.
    void check_state(const float* state);

    // The same for words that the text encoder never saw. Throws Error (instruction).
    void check_words(const std::vector<std::string>& unseen, const std::string& text);

  private:
    bool is_news(const float* state, std::size_t index) const;
    void report(ErrorKind kind, const std::string& what) const;

    const std::vector<DimensionInfo>& state_;
    std::string engine_;
    bool refuses_ = false;
    WarningHandler on_warning_;
    std::vector<float> low_;  // a number below it, or above high_, is far; empty where nothing is checked
    std::vector<float> high_;
    std::vector<bool> told_;
    bool checks_words_ = true;
    std::set<std::string> told_words_;
};

}  // namespace lightwam::runtime
