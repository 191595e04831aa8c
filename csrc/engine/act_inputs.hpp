// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lightwam/policy.hpp"

namespace lightwam::engine {

// A checked observation. images: one for each camera of the engine, in its order; null pointers for what the engine
// does not read.
struct ActInputs {
    const float* state = nullptr;
    const float* latents = nullptr;
    const ImageView* const* images = nullptr;
};

}  // namespace lightwam::engine
