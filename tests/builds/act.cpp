// SPDX-License-Identifier: Apache-2.0
// A program of somebody else, in C++: see act.c. It also catches the library's own exception.
#include <cstdio>
#include <lightwam/policy.hpp>
#include <vector>

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    try {
        const lightwam::Policy none("no/such/file.lwam");
        return 3;
    } catch (const lightwam::Error& error) {
        if (error.kind() != lightwam::ErrorKind::engine) return 3;
    }
    constexpr std::int64_t kSize = 96;
    lightwam::PolicyOptions options;
    options.threads = 1;
    lightwam::Policy policy(argv[1], options);
    policy.set_instruction(argv[2]);
    std::vector<std::uint8_t> pixels(kSize * kSize * 3);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * 37 % 251);
    std::vector<lightwam::ImageView> images;
    for (const lightwam::CameraInfo& camera : policy.info().cameras) {
        lightwam::ImageView image;
        image.camera = camera.name;
        image.pixels = pixels.data();
        image.height = image.width = kSize;
        image.row_stride = kSize * 3;
        images.push_back(image);
    }
    const std::vector<float> state(static_cast<std::size_t>(policy.info().state_width));
    std::vector<float> actions(static_cast<std::size_t>(policy.info().horizon * policy.info().action_width));
    lightwam::Observation observation;
    observation.images = images.data();
    observation.image_count = images.size();
    observation.state = state.data();
    observation.state_width = state.size();
    policy.infer(observation, actions.data(), actions.size());
    for (const float action : actions) std::printf("%.9g\n", static_cast<double>(action));
    std::fprintf(stderr, "%s\n", policy.info().execution_info.c_str());
}
