// SPDX-License-Identifier: Apache-2.0
#include "cuda/side_stream.hpp"

namespace lightwam::cuda {

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

}  // namespace lightwam::cuda
