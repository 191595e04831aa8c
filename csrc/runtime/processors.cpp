// SPDX-License-Identifier: Apache-2.0
#include "runtime/processors.hpp"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace lightwam::runtime {

int available_processors() noexcept {
    cpu_set_t mask;
    if (::sched_getaffinity(0, sizeof(mask), &mask) == 0) return std::max(1, CPU_COUNT(&mask));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace lightwam::runtime
