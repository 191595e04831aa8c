// SPDX-License-Identifier: Apache-2.0
// How many CPUs this process may use, and the budget that its policies share.
#pragma once

#include <string>

#include "cpu/thread_pool.hpp"

namespace lightwam::runtime {

// The smaller of the calling thread's affinity mask and the CPU quota of its control group; at least 1.
int available_cpus();

// The CPU quota of this process's control group (version 1 or 2) and of those above it, rounded up to whole
// CPUs; 0 when there is none. `root` stands before /proc and /sys.
int quota_cpus(const std::string& root);

// Of the whole process.
cpu::CoreBudget& process_budget() noexcept;
// In the child of a fork, where the pools that worked are no more: an unused budget again.
void forget_process_budget() noexcept;

}  // namespace lightwam::runtime
