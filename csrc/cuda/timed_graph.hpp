// SPDX-License-Identifier: Apache-2.0
// A CUDA graph of launches that reads the GPU's clock on its way. Not the graph that a robot runs: between two launches
// a reading takes about a microsecond.
#pragma once

#include <span>
#include <vector>

#include "cuda/graph.hpp"

namespace lightwam::cuda {

// An event that reads the clock.
class ClockEvent {
  public:
    explicit ClockEvent(const Driver& driver);
    ~ClockEvent();
    ClockEvent(ClockEvent&& other) noexcept { *this = std::move(other); }
    ClockEvent& operator=(ClockEvent&& other) noexcept {
        std::swap(driver_, other.driver_);
        std::swap(handle_, other.handle_);
        return *this;
    }
    Event handle() const { return handle_; }

  private:
    const Driver* driver_ = nullptr;
    Event handle_ = nullptr;
};

class TimedGraph {
  public:
    TimedGraph() = default;
    // Records the launches, in order and one after the other. The clock is read before each launch of `marks`
    // (ascending, the first is 0) and after the last launch.
    TimedGraph(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches,
               const std::vector<std::size_t>& marks);

    bool empty() const { return graph_.empty(); }
    void launch(Stream stream) const { graph_.launch(stream); }
    // Seconds from each mark to the next, of the run that the stream was last waited for.
    std::vector<double> seconds() const;

  private:
    const Driver* driver_ = nullptr;
    std::vector<ClockEvent> events_;  // outlive the graph
    LaunchGraph graph_;
};

}  // namespace lightwam::cuda
