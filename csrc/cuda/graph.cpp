// SPDX-License-Identifier: Apache-2.0
#include "cuda/graph.hpp"

namespace lightwam::cuda {
namespace {

// Records a graph, before it is made ready to run.
class RecordedGraph : public Owned<Graph, &Driver::graph_destroy> {
  public:
    RecordedGraph(const Driver& driver, Stream stream, const std::function<void()>& work) : Owned(driver) {
        check(driver, driver.stream_begin_capture(stream, kCaptureThreadLocal), "recording the graph");
        try {
            work();
        } catch (...) {
            // Or the stream would record for ever, and another that it has made record.
            driver.stream_end_capture(stream, &handle_);
            throw;
        }
        check(driver, driver.stream_end_capture(stream, &handle_), "recording the graph");
    }
};

}  // namespace

void launch_all(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches) {
    for (const BoundLaunch& launch : launches) {
        const Result result = launch.call->enqueue(stream, launch.addresses);
        if (result != Result::success) throw DriverError(driver, result, "launching '" + *launch.name + "'");
    }
}

SideStream::SideStream(const Driver& driver, Stream main)
    : driver_(driver), main_(main), stream_(driver, StreamPriority::last), parted_(driver), joined_(driver) {}

void SideStream::order(Stream earlier, const EventOwner& reached, Stream later) const {
    const char* const what = "ordering two streams on the GPU";
    check(driver_, driver_.event_record(reached.handle(), earlier), what);
    check(driver_, driver_.stream_wait_event(later, reached.handle(), 0), what);
}

void SideStream::put_all(std::span<const BoundLaunch> launches, const engine::PlanSide& side) const {
    order(main_, parted_, stream_.handle());
    cuda::launch_all(driver_, stream_.handle(), launches.first(side.launches));
    cuda::launch_all(driver_, main_, launches.subspan(side.launches, side.join - side.launches));
    order(stream_.handle(), joined_, main_);
    cuda::launch_all(driver_, main_, launches.subspan(side.join));
}

void SideStream::launch_all(std::span<const BoundLaunch> launches, const engine::PlanSide& side) const {
    try {
        put_all(launches, side);
    } catch (...) {
        // What this stream writes may be somebody else's next. A stream that records fails here, and runs nothing.
        driver_.stream_synchronize(stream_.handle());
        throw;
    }
}

LaunchGraph::LaunchGraph(const Driver& driver, Stream stream, const std::function<void()>& work) : Owned(driver) {
    const RecordedGraph graph(driver, stream, work);
    check(driver, driver.graph_instantiate(&handle_, graph.handle(), kGraphNodePriority), "making the graph ready");
}

void LaunchGraph::launch(Stream stream) const {
    check(*driver_, driver_->graph_launch(handle_, stream), "starting the graph");
}

TimedGraph::TimedGraph(const Driver& driver, Stream stream, const std::vector<Piece>& pieces) : driver_(&driver) {
    for (std::size_t i = 0; i <= pieces.size(); ++i)
        events_.push_back(std::make_unique<EventOwner>(driver, kEventDefault));
    const auto read_clock = [&](std::size_t i) {
        check(driver, driver.event_record_with_flags(events_[i]->handle(), stream, kEventRecordExternal),
              "recording a reading of the GPU's clock");
    };
    graph_ = LaunchGraph(driver, stream, [&] {
        for (std::size_t i = 0; i < pieces.size(); ++i) {
            read_clock(i);
            pieces[i]();
        }
        read_clock(pieces.size());
    });
}

std::vector<double> TimedGraph::seconds() const {
    std::vector<double> seconds;
    for (std::size_t i = 0; i + 1 < events_.size(); ++i) {
        float milliseconds = 0.0F;
        check(*driver_, driver_->event_elapsed_time(&milliseconds, events_[i]->handle(), events_[i + 1]->handle()),
              "reading the GPU's clock");
        seconds.push_back(1e-3 * static_cast<double>(milliseconds));
    }
    return seconds;
}

}  // namespace lightwam::cuda
