// SPDX-License-Identifier: Apache-2.0
// How the CPU brings the cameras' pictures onto the canvas: one resize plan a camera, made for the size seen
// last.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/cpu.hpp"
#include "lightwam/policy.hpp"

namespace lightwam::runtime {

class ResizePlans {
  public:
    ResizePlans(const std::vector<CameraInfo>& cameras, int threads);

    // Points the canvas at checked images, one a camera in their order. Allocates only for a size not seen last.
    void accept(const ImageView* const* images);

    const cpu::CameraImage* images() const { return images_.data(); }
    std::size_t count() const { return images_.size(); }
    std::uint64_t built() const { return built_; }

  private:
    const std::vector<CameraInfo>& cameras_;
    int threads_;
    std::vector<cpu::CameraImage> images_;
    std::vector<cpu::ResizePlan> plans_;
    std::uint64_t built_ = 0;
};

}  // namespace lightwam::runtime
