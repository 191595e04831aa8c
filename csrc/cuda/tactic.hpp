// SPDX-License-Identifier: Apache-2.0
// The seam between the executor and what computes a task: it puts calls onto a stream and does not know their kind.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cuda/driver.hpp"

namespace lightwam::cuda {

// A tactic of a task, ready to run on this GPU: machine code of the plan (modules.hpp), or a library's function.
class Call {
  public:
    virtual ~Call() = default;
    // Puts the task onto a stream, which may be recording. `addresses`: the task's arguments, in order.
    virtual Result enqueue(Stream stream, std::span<const DeviceAddress> addresses) const = 0;
};

// By task, the tactic that runs: an index into the plan's tactics for the GPU's target, of which 0 is the default, or
// their number for the library's (cublaslt.hpp).
using TacticChoice = std::vector<std::size_t>;

}  // namespace lightwam::cuda
