// SPDX-License-Identifier: Apache-2.0
// A CUDA graph of launches that reads the GPU's clock on its way. Not the graph that a robot runs: between two launches
// a reading takes about a microsecond.
#pragma once

#include <memory>
#include <vector>

#include "cuda/graph.hpp"

namespace lightwam::cuda {

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
