// SPDX-License-Identifier: Apache-2.0
#include "cuda/graph.hpp"

namespace lightwam::cuda {
namespace {

// A recorded graph, before it is made ready to run.
struct RecordedGraph {
    const Driver& driver;
    Graph handle = nullptr;
    ~RecordedGraph() {
        if (handle != nullptr) driver.graph_destroy(handle);
    }
};

void record(const Driver& driver, Stream stream, const std::function<void()>& work, RecordedGraph& graph) {
    check(driver, driver.stream_begin_capture(stream, kCaptureThreadLocal), "recording the graph");
    try {
        work();
    } catch (...) {
        // Or the stream would record for ever, and another that it has made record.
        driver.stream_end_capture(stream, &graph.handle);
        throw;
    }
    check(driver, driver.stream_end_capture(stream, &graph.handle), "recording the graph");
}

}  // namespace

void launch_all(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches) {
    for (const BoundLaunch& launch : launches) {
        const Result result = launch.call->enqueue(stream, launch.addresses);
        if (result != Result::success) throw DriverError(driver, result, "launching '" + *launch.name + "'");
    }
}

LaunchGraph::LaunchGraph(const Driver& driver, Stream stream, const std::function<void()>& work) {
    RecordedGraph graph{driver};
    record(driver, stream, work, graph);
    check(driver, driver.graph_instantiate(&exec_, graph.handle, kGraphNodePriority), "making the graph ready");
    driver_ = &driver;
}

LaunchGraph::~LaunchGraph() {
    if (exec_ != nullptr) driver_->graph_exec_destroy(exec_);
}

void LaunchGraph::launch(Stream stream) const {
    check(*driver_, driver_->graph_launch(exec_, stream), "starting the graph");
}

}  // namespace lightwam::cuda
