// SPDX-License-Identifier: Apache-2.0
// The side stream of a program (docs/reference/launch-plan.md, section 2).
#pragma once

#include <span>

#include "cuda/graph.hpp"
#include "engine/launch_plan.hpp"

namespace lightwam::cuda {

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

}  // namespace lightwam::cuda
