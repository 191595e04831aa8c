// SPDX-License-Identifier: Apache-2.0
// The cache blocks of the instructions set so far: the least recently used one leaves when the cache is full.
#pragma once

#include <algorithm>
#include <list>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/block.hpp"

namespace lightwam::runtime {

class InstructionCache {
  public:
    struct Entry {
        std::string text;
        Block block;
        std::size_t bytes = 0;  // of the block that are in use
    };

    // All entries together hold at most this much memory, or there is one.
    static constexpr std::size_t kMaxBytes = std::size_t{512} << 20;

    explicit InstructionCache(std::size_t capacity) : capacity_(capacity) {}

    // The entry of `text`, moved to the front; null when it is not there.
    const Entry* find(std::string_view text) {
        const auto found = std::ranges::find(entries_, text, &Entry::text);
        if (found == entries_.end()) return nullptr;
        entries_.splice(entries_.begin(), entries_, found);
        return &entries_.front();
    }
    // Puts an entry to the front; entries beyond the capacity, in number or memory, leave at the back.
    void insert(Entry entry) {
        entries_.push_front(std::move(entry));
        std::size_t bytes = 0;
        for (const Entry& each : entries_) bytes += each.bytes;
        while (entries_.size() > 1 && (entries_.size() > capacity_ || bytes > kMaxBytes)) {
            bytes -= entries_.back().bytes;
            entries_.pop_back();
        }
    }
    std::size_t size() const { return entries_.size(); }

  private:
    std::size_t capacity_;
    std::list<Entry> entries_;  // most recently used first; addresses stay
};

}  // namespace lightwam::runtime
