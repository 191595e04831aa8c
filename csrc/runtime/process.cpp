// SPDX-License-Identifier: Apache-2.0
#include "runtime/process.hpp"

#include <pthread.h>

#include <atomic>

#include "cuda/driver.hpp"
#include "runtime/cpus.hpp"

namespace lightwam::runtime {
namespace {

constinit std::atomic<std::uint32_t> fork_count{0};

// In a child, before its only thread goes on: whatever the parent's other threads held or were changing begins anew.
// All that a process shares is listed here; none of it is a static variable of a function, whose guard may be taken.
void begin_child() {
    fork_count.fetch_add(1, std::memory_order_relaxed);
    forget_process_budget();
    cuda::forget_driver();
}

[[maybe_unused]] const int registered = ::pthread_atfork(nullptr, nullptr, begin_child);

}  // namespace

std::uint32_t forks() noexcept { return fork_count.load(std::memory_order_relaxed); }

}  // namespace lightwam::runtime
