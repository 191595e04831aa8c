// SPDX-License-Identifier: Apache-2.0
#include "engine/intervals.hpp"

#include <algorithm>
#include <iterator>

namespace lightwam::engine {

void Intervals::add(std::uint64_t begin, std::uint64_t end) {
    if (begin >= end) return;
    auto next = ends_.upper_bound(begin);
    if (next != ends_.begin() && std::prev(next)->second >= begin) {
        --next;
        begin = next->first;
    }
    while (next != ends_.end() && next->first <= end) {
        end = std::max(end, next->second);
        next = ends_.erase(next);
    }
    ends_.emplace(begin, end);
}

bool Intervals::covers(std::uint64_t begin, std::uint64_t end) const {
    if (begin >= end) return true;
    const auto next = ends_.upper_bound(begin);
    return next != ends_.begin() && std::prev(next)->second >= end;
}

bool Intervals::intersects(std::uint64_t begin, std::uint64_t end) const {
    if (begin >= end) return false;
    const auto next = ends_.lower_bound(end);
    return next != ends_.begin() && std::prev(next)->second > begin;
}

}  // namespace lightwam::engine
