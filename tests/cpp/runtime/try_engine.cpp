// SPDX-License-Identifier: Apache-2.0
// try_engine FILE...: opens each file and, if it is accepted, runs it on some observation. Prints what happened; exits
// 0 unless the runtime does something else than answer or fail with an error.
#include <cstdio>
#include <string>
#include <vector>

#include "lightwam/policy.hpp"

namespace {

void run(lightwam::Policy& policy) {
    const lightwam::PolicyInfo& info = policy.info();
    policy.set_instruction(info.instructions.empty() ? "pick it up" : info.instructions[0]);
    const std::vector<std::uint8_t> pixels(64 * 48 * 3, 90);
    std::vector<lightwam::ImageView> images;
    for (const lightwam::CameraInfo& camera : info.cameras)
        images.push_back({camera.name, pixels.data(), 64, 48, 48 * 3, 3, 1});
    const std::int64_t* shape = info.latent_shape;
    const std::vector<float> latents(
        static_cast<std::size_t>(info.starts_at_images ? 0 : shape[0] * shape[1] * shape[2]));
    const std::vector<float> state(static_cast<std::size_t>(info.state_width), 0.5F);
    std::vector<float> actions(static_cast<std::size_t>(info.horizon * info.action_width));
    lightwam::Observation observation;
    observation.images = images.data();
    observation.image_count = images.size();
    observation.latents = latents.empty() ? nullptr : latents.data();
    observation.latent_count = latents.size();
    observation.state = state.data();
    observation.state_width = state.size();
    policy.infer(observation, actions.data(), actions.size());
}

}  // namespace

int main(int argc, char** argv) {
    int accepted = 0;
    for (int i = 1; i < argc; ++i) {
        try {
            lightwam::PolicyOptions options;
            options.threads = 1;
            lightwam::Policy policy(argv[i], options);
            ++accepted;
            run(policy);
            std::printf("%s: runs\n", argv[i]);
        } catch (const lightwam::Error& error) {
            std::printf("%s: %s\n", argv[i], error.what());
        }
    }
    std::printf("%d of %d accepted\n", accepted, argc - 1);
    return 0;
}
