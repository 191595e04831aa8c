// SPDX-License-Identifier: Apache-2.0
// A set of bytes, kept as the fewest intervals [begin, end).
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace lightwam::engine {

class Intervals {
  public:
    void add(std::uint64_t begin, std::uint64_t end) {
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
    bool covers(std::uint64_t begin, std::uint64_t end) const {
        if (begin >= end) return true;
        const auto next = ends_.upper_bound(begin);
        return next != ends_.begin() && std::prev(next)->second >= end;
    }
    bool intersects(std::uint64_t begin, std::uint64_t end) const {
        if (begin >= end) return false;
        const auto next = ends_.lower_bound(end);
        return next != ends_.begin() && std::prev(next)->second > begin;
    }

  private:
    std::map<std::uint64_t, std::uint64_t> ends_;  // begin -> end; neither overlapping nor touching
};

}  // namespace lightwam::engine
