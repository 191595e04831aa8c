// SPDX-License-Identifier: Apache-2.0
// An observation for tests/data/engines/small_*.lwam (made by tests/python/runtime/engine_files.py), and its chunk.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"

namespace lightwam::test {

inline constexpr const char* kTask = "pick up the soup";
inline constexpr std::size_t kActions = 4 * 3;

struct SmallObservation {
    explicit SmallObservation(std::int64_t height = 12, std::int64_t width = 10)
        : pixels(static_cast<std::size_t>(height * width * 3)), state(5), latents(3 * 8 * 16) {
        for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * 37);
        for (std::size_t i = 0; i < state.size(); ++i) state[i] = 0.1F * static_cast<float>(i);
        for (std::size_t i = 0; i < latents.size(); ++i) latents[i] = 0.01F * static_cast<float>(i % 97);
        images[0] = {"wrist", pixels.data(), height, width, 3 * width, 3, 1};
        images[1] = {"agentview", pixels.data(), height, width, 3 * width, 3, 1};
    }
    // With images, or with latents.
    Observation view(bool from_images = true) const {
        Observation result;
        if (from_images) {
            result.images = images;
            result.image_count = 2;
        } else {
            result.latents = latents.data();
            result.latent_count = latents.size();
        }
        result.state = state.data();
        result.state_width = state.size();
        return result;
    }

    std::vector<std::uint8_t> pixels;
    std::vector<float> state;
    std::vector<float> latents;
    ImageView images[2];
};

// A chunk [4, 3], all of it written.
inline std::vector<float> infer(Policy& policy, const Observation& observation) {
    std::vector<float> actions(kActions, std::numeric_limits<float>::quiet_NaN());
    policy.infer(observation, actions.data(), actions.size());
    for (const float action : actions) EXPECT(std::isfinite(action));
    return actions;
}

}  // namespace lightwam::test
