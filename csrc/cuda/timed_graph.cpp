// SPDX-License-Identifier: Apache-2.0
#include "cuda/timed_graph.hpp"

namespace lightwam::cuda {

ClockEvent::ClockEvent(const Driver& driver) {
    check(driver, driver.event_create(&handle_, kEventDefault), "making an event on the GPU");
    driver_ = &driver;
}

ClockEvent::~ClockEvent() {
    if (handle_ != nullptr) driver_->event_destroy(handle_);
}

TimedGraph::TimedGraph(const Driver& driver, Stream stream, std::span<const BoundLaunch> launches,
                       const std::vector<std::size_t>& marks)
    : driver_(&driver) {
    for (std::size_t i = 0; i <= marks.size(); ++i) events_.emplace_back(driver);
    const auto read_clock = [&](std::size_t i) {
        check(driver, driver.event_record_with_flags(events_[i].handle(), stream, kEventRecordExternal),
              "recording a reading of the GPU's clock");
    };
    graph_ = LaunchGraph(driver, stream, [&] {
        for (std::size_t i = 0; i < marks.size(); ++i) {
            const std::size_t end = i + 1 < marks.size() ? marks[i + 1] : launches.size();
            read_clock(i);
            launch_all(driver, stream, launches.subspan(marks[i], end - marks[i]));
        }
        read_clock(marks.size());
    });
}

std::vector<double> TimedGraph::seconds() const {
    std::vector<double> seconds;
    for (std::size_t i = 0; i + 1 < events_.size(); ++i) {
        float milliseconds = 0.0F;
        check(*driver_, driver_->event_elapsed_time(&milliseconds, events_[i].handle(), events_[i + 1].handle()),
              "reading the GPU's clock");
        seconds.push_back(1e-3 * static_cast<double>(milliseconds));
    }
    return seconds;
}

}  // namespace lightwam::cuda
