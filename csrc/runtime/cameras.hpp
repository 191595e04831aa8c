// SPDX-License-Identifier: Apache-2.0
// The cameras of an engine: checks what an observation brings and puts it into the engine's order.
#pragma once

#include <string_view>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::runtime {

class Cameras {
  public:
    explicit Cameras(const std::vector<CameraInfo>& cameras);

    // The observation's images, one for each camera in the engine's order. Throws Error (observation) when a camera is
    // missing, unknown, there twice, without pixels or of a size out of range. Allocates nothing.
    const ImageView* const* accept(const Observation& observation);

  private:
    std::size_t find(std::string_view name) const;

    const std::vector<CameraInfo>& cameras_;
    std::vector<const ImageView*> images_;
};

}  // namespace lightwam::runtime
