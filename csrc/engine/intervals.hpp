// SPDX-License-Identifier: Apache-2.0
// A set of bytes, kept as the fewest intervals [begin, end).
#pragma once

#include <cstdint>
#include <map>

namespace lightwam::engine {

class Intervals {
  public:
    void add(std::uint64_t begin, std::uint64_t end);
    bool covers(std::uint64_t begin, std::uint64_t end) const;
    bool intersects(std::uint64_t begin, std::uint64_t end) const;

  private:
    std::map<std::uint64_t, std::uint64_t> ends_;  // begin -> end; neither overlapping nor touching
};

}  // namespace lightwam::engine
