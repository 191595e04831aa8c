// SPDX-License-Identifier: Apache-2.0
// Times every tactic of every task where it runs: in the chunk, on the executor's own memory.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cuda/tuning_file.hpp"

namespace lightwam::cuda {

// A policy that is ready for a chunk, as the tuner sees it: its inputs are on the GPU.
struct TuningGround {
    const Driver& driver;
    const Gpu& gpu;
    const engine::LaunchPlan& plan;
    std::span<const std::byte> code;  // the target's cubin modules
    const StreamOwner& stream;
    const CublasLt* library;     // whose tactics are timed beside the plan's, or null
    const std::string& why_not;  // why there is none where a task could use one; else empty
    // The launches of set_instruction (into a place that no chunk reads) and of act.
    std::function<std::vector<BoundLaunch>(const Modules&)> text;
    std::function<std::vector<BoundLaunch>(const Modules&)> act;
    // Puts a program's launches onto the stream as the policy does, its side stream beside it.
    std::function<void(const std::vector<BoundLaunch>&, const engine::PlanSide&)> put;
    // Waits for the GPU; the actions [H, A] of the last act.
    std::function<std::vector<float>()> actions;
};

// Replays each program with tactic 0 of every task, tactic 1, ..., in turns, `repeats` times each, as graphs that read
// the clock between launches; before each replay the GPU's cache is filled with other bytes. A task's time is the sum
// of its launches' medians. Where another tactic is at least 2 % faster than the ones before it, it is chosen; if the
// chunk as a whole then is not faster, the defaults are. Throws DriverError; Error (device) when the choice computes
// other actions than the defaults.
Tuning tune(const TuningGround& ground, const TuningKey& key, int repeats, const TuningProgress& progress);

}  // namespace lightwam::cuda
