// SPDX-License-Identifier: Apache-2.0
#include "runtime/instruction_cache.hpp"

#include <algorithm>

namespace lightwam::runtime {

InstructionCache::Entry* InstructionCache::find(std::string_view text) {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.text == text; });
    if (found == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return &entries_.front();
}

InstructionCache::Entry& InstructionCache::insert(Entry entry) {
    entries_.push_front(std::move(entry));
    std::size_t bytes = 0;
    for (const Entry& each : entries_) bytes += each.bytes;
    while (entries_.size() > 1 && (entries_.size() > capacity_ || bytes > kMaxBytes)) {
        bytes -= entries_.back().bytes;
        entries_.pop_back();
    }
    return entries_.front();
}

}  // namespace lightwam::runtime
