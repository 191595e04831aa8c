// SPDX-License-Identifier: Apache-2.0
// Launches as the driver takes them, and a CUDA graph of them: recorded once, then started with one call.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
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

class LaunchGraph : public Owned<GraphExec, &Driver::graph_exec_destroy> {
  public:
    LaunchGraph() = default;
    // Records from the stream what `work` puts onto it; nothing of it runs.
    LaunchGraph(const Driver& driver, Stream stream, const std::function<void()>& work);

    bool empty() const { return handle_ == nullptr; }
    void launch(Stream stream) const;
};

// A graph of launches that reads the GPU's clock on its way. Not the graph that a robot runs: between two launches a
// reading takes about a microsecond.
class TimedGraph {
  public:
    // Puts something onto the stream that records, and onto streams that it makes wait for it.
    using Piece = std::function<void()>;

    TimedGraph() = default;
    // Records the pieces one after the other. The clock is read before each and after the last.
    TimedGraph(const Driver& driver, Stream stream, const std::vector<Piece>& pieces);

    bool empty() const { return graph_.empty(); }
    void launch(Stream stream) const { graph_.launch(stream); }
    // Seconds that each piece took when the stream was last waited for.
    std::vector<double> seconds() const;

  private:
    const Driver* driver_ = nullptr;
    std::vector<std::unique_ptr<EventOwner>> events_;  // outlive the graph
    LaunchGraph graph_;
};

}  // namespace lightwam::cuda
