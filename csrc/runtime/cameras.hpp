// SPDX-License-Identifier: Apache-2.0
// The cameras of an engine: checks what an observation brings and keeps one resize plan per camera.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/cpu.hpp"
#include "engine/graph.hpp"

namespace lightwam::runtime {

class Cameras {
  public:
    Cameras(const std::vector<CameraInfo>& cameras, int threads);

    // Points the canvas at the observation's images. Throws Error (observation) and changes nothing when a camera is
    // missing, unknown, there twice, without pixels or of a size out of range. Allocates only for a size not seen last.
    void accept(const Observation& observation);

    const cpu::CameraImage* images() const { return images_.data(); }
    std::size_t count() const { return images_.size(); }
    std::uint64_t plans_built() const { return plans_built_; }

  private:
    std::size_t find(std::string_view name) const;

    const std::vector<CameraInfo>& cameras_;
    int threads_;
    std::vector<cpu::CameraImage> images_;
    std::vector<cpu::ResizePlan> plans_;
    std::vector<std::size_t> order_;  // order_[i]: place in the observation of camera i
    std::uint64_t plans_built_ = 0;
};

}  // namespace lightwam::runtime
