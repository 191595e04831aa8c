// SPDX-License-Identifier: Apache-2.0
// The file beside an engine that says which tactics are fast on which GPU (launch-plan.md, section 3.1). Written
// by `lightwam tune`; a choice only changes how fast a chunk is, so a file that cannot be used is a warning, not an
// error.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "cuda/modules.hpp"

namespace lightwam::cuda {

// What a tuning is for. All four must be the same again.
struct TuningKey {
    std::string gpu;     // its name
    std::string target;  // "sm_87"
    int driver = 0;      // the CUDA version that it supports: 12060 for 12.6
    std::string plan;    // digest of the machine code for the target, the launches and the tactics
};

// The tactics that a policy runs, and why those.
struct ChosenTactics {
    TacticChoice choice;
    std::string why;      // "tactics tuned on this GPU", or "default tactics (...)"
    std::string warning;  // one line when there is a file that cannot be used; else empty
    std::string library;  // "cuBLASLt 13.1.0" where the choice takes it for some tasks; else empty
};

TuningKey tuning_key(const Driver& driver, const engine::LaunchPlan& plan, const Gpu& gpu,
                     std::span<const std::byte> code);

// The library of the chosen tactics, in the current context; null where they need none. Where it is not the one that
// they were timed with, the default tactics of its tasks are chosen instead, with a warning.
std::unique_ptr<CublasLt> load_library(ChosenTactics& tactics, const engine::LaunchPlan& plan, const Gpu& gpu);

// The tactics of PATH.tuning.json's entry for `key`, or the defaults. Does not throw for any contents of the file.
ChosenTactics choose_tactics(const std::string& engine_path, const TuningKey& key, const engine::LaunchPlan& plan,
                             const Gpu& gpu);

}  // namespace lightwam::cuda
