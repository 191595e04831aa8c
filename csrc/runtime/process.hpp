// SPDX-License-Identifier: Apache-2.0
// What a fork does to a policy: its threads, its lock and its GPU stay in the process that opened it.
#pragma once

#include <cstdint>

namespace lightwam::runtime {

// How many forks lie between the process that loaded this library and this one. No system call, any thread.
std::uint32_t forks() noexcept;

}  // namespace lightwam::runtime
