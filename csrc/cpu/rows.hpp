// SPDX-License-Identifier: Apache-2.0
//
// Cuts an operation that treats its rows (or columns, or elements) one by one into work items.
#pragma once

#include <algorithm>
#include <cstddef>

#include "norms.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {

// Calls kernel(args, begin, end) over [0, count) in pieces of about 16 Ki elements; `width` elements belong to one
// index.
template <class Args>
void run_pieces(const Execution& execution, void (*kernel)(const Args&, std::size_t, std::size_t) noexcept,
                const Args& args, std::size_t count, std::size_t width) noexcept {
    constexpr std::size_t kElements = 16 * 1024;
    const std::size_t piece = std::max<std::size_t>(kElements / std::max<std::size_t>(width, 1), 1);
    execution.pool->parallel_for((count + piece - 1) / piece, [&](std::size_t item, int) {
        kernel(args, item * piece, std::min((item + 1) * piece, count));
    });
}

}  // namespace lightwam::cpu
