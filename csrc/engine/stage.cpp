// SPDX-License-Identifier: Apache-2.0
#include "lightwam/policy.hpp"

namespace lightwam {

const char* stage_name(Stage stage) noexcept {
    static constexpr const char* kNames[] = {"preprocess", "vae", "backbone", "expert", "postprocess", "text"};
    static_assert(sizeof(kNames) / sizeof(kNames[0]) == kStageCount);
    return kNames[static_cast<int>(stage)];
}

}  // namespace lightwam
