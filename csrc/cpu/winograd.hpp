// SPDX-License-Identifier: Apache-2.0
//
// The Winograd form of a 3x3 convolution with stride 1: conv2d.hpp with form = winograd.
#pragma once

#include "conv2d.hpp"

namespace lightwam::cpu {

std::size_t winograd_scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept;
void run_winograd(const Execution& execution, const Conv2dArgs& args) noexcept;

}  // namespace lightwam::cpu
