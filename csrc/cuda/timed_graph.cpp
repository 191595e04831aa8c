// SPDX-License-Identifier: Apache-2.0
#include "cuda/timed_graph.hpp"

namespace lightwam::cuda {

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
