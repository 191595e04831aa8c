// SPDX-License-Identifier: Apache-2.0
// Launches as the driver takes them, on one stream or two, and a CUDA graph of them: recorded once, then started with
// one call.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/device.hpp"

namespace lightwam::cuda {

// The seam between the executor and what computes a task: it puts calls onto a stream and does not know their kind.
// A tactic of a task, ready to run on this GPU: machine code of the plan (modules.hpp), or a library's function.
class Call {
  public:
    virtual ~Call() = default;
    // Puts the task onto a stream, which may be recording. `addresses`: the task's arguments, in order.
    virtual Result enqueue(Stream stream, std::span<const DeviceAddress> addresses) const = 0;
};

// A launch with every address filled in.
struct BoundLaunch {
    const std::string* name = nullptr;
    const Call* call = nullptr;
    std::vector<DeviceAddress> addresses;  // of the task's arguments
};

// Puts launches onto a stream, in order.
void launch_all(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches);

// The side stream of a program (docs/reference/launch-plan.md, section 2).
class SideStream {
  public:
    // Beside `main`, whose launches go first where the GPU must choose.
    SideStream(const Driver& driver, Stream main);

    // Puts the launches of a program onto both streams, which may be recording: the first ones here, the others onto
    // the main stream, which waits for this one where the program joins it. Where this throws, nothing runs here any
    // more, unless the streams record.
    void launch_all(std::span<const BoundLaunch> launches, const engine::PlanSide& side) const;

  private:
    void put_all(std::span<const BoundLaunch> launches, const engine::PlanSide& side) const;
    // What is put onto `later` from now on waits for what `earlier` has so far.
    void order(Stream earlier, const EventOwner& reached, Stream later) const;

    const Driver& driver_;
    Stream main_;
    StreamOwner stream_;
    EventOwner parted_;
    EventOwner joined_;
};

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
