// SPDX-License-Identifier: Apache-2.0
// Launches as the driver takes them, and a CUDA graph of them: recorded once, then started with one call.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/tactic.hpp"

namespace lightwam::cuda {

// A launch with every address filled in.
struct BoundLaunch {
    const std::string* name = nullptr;
    const Call* call = nullptr;
    std::vector<DeviceAddress> addresses;  // of the task's arguments
};

// Puts launches onto a stream, in order.
void launch_all(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches);

class LaunchGraph {
  public:
    LaunchGraph() = default;
    // Records from the stream what `work` puts onto it; nothing of it runs.
    LaunchGraph(const Driver& driver, Stream stream, const std::function<void()>& work);
    ~LaunchGraph();
    LaunchGraph(LaunchGraph&& other) noexcept { *this = std::move(other); }
    LaunchGraph& operator=(LaunchGraph&& other) noexcept {
        std::swap(driver_, other.driver_);
        std::swap(exec_, other.exec_);
        return *this;
    }

    bool empty() const { return exec_ == nullptr; }
    void launch(Stream stream) const;

  private:
    const Driver* driver_ = nullptr;
    GraphExec exec_ = nullptr;
};

}  // namespace lightwam::cuda
