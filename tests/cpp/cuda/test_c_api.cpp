// SPDX-License-Identifier: Apache-2.0
// The C functions on the GPU that the stand-in driver plays: what they answer there, and when it is missing or lost.
#include <cstring>

#include "expect.hpp"
#include "lightwam/policy.h"
#include "toy_kernels.hpp"

using namespace lightwam::test;

namespace {

constexpr int kIllegalAddress = 700;

bool says(const char* text, const char* part) { return text != nullptr && std::strstr(text, part) != nullptr; }

// A policy of the C functions; null, and a failed test, where it does not open.
lightwam_policy* open(const std::string& path, const char* device) {
    lightwam_options options{};
    options.device = device;
    lightwam_policy* policy = nullptr;
    EXPECT(lightwam_policy_open(path.c_str(), &options, &policy) == LIGHTWAM_OK);
    EXPECT(policy != nullptr);
    return policy;
}

// The same chunk as the C++ class's, in the order of cameras that the observation has.
lightwam_status infer(lightwam_policy* policy, std::vector<float>& actions) {
    const SmallObservation seen;
    lightwam_image images[2];
    for (int i = 0; i < 2; ++i) {
        const lightwam::ImageView& image = seen.images[i];
        images[i] = {image.camera.data(), image.pixels,        image.height,        image.width,
                     image.row_stride,    image.column_stride, image.channel_stride};
    }
    const lightwam_observation observation{images, 2, nullptr, 0, seen.state.data(), seen.state.size()};
    actions.assign(kActions, -1.0F);
    return lightwam_policy_infer(policy, &observation, actions.data(), actions.size(), nullptr);
}

void test_chunk(const Standin& standin, const std::string& path) {
    lightwam::Policy reference(path, on_cuda());
    reference.set_instruction(kTask);
    const std::vector<float> wanted = lightwam::test::infer(reference, SmallObservation().view());
    for (const char* device : {"cuda", "auto"}) {
        lightwam_policy* const policy = open(path, device);
        if (policy == nullptr) return;
        EXPECT(std::strcmp(lightwam_policy_device(policy), "cuda") == 0);
        EXPECT(says(lightwam_policy_execution_info(policy), "runs on GPU 'Stand-in', sm_87"));
        std::vector<float> actions;
        EXPECT(infer(policy, actions) == LIGHTWAM_INSTRUCTION_ERROR);
        EXPECT(lightwam_policy_set_instruction(policy, kTask) == LIGHTWAM_OK);
        EXPECT(infer(policy, actions) == LIGHTWAM_OK && actions == wanted);
        const std::uint64_t alive = standin.alive();
        lightwam_policy_close(policy);
        EXPECT(standin.alive() < alive);
    }
}

void test_missing(const Standin& standin, const std::string& path) {
    standin.set_device(0, 87, 0, kGigabyte);
    lightwam_options on_gpu{};
    on_gpu.device = "cuda";
    lightwam_policy* policy = nullptr;
    EXPECT(lightwam_policy_open(path.c_str(), &on_gpu, &policy) == LIGHTWAM_DEVICE_ERROR && policy == nullptr);
    EXPECT(says(lightwam_last_error(), "there is no GPU that this process may use"));
    policy = open(path, "auto");
    EXPECT(policy != nullptr && std::strcmp(lightwam_policy_device(policy), "cpu") == 0);
    EXPECT(says(lightwam_policy_execution_info(policy), "there is no GPU that this process may use"));
    lightwam_policy_close(policy);
    policy = open(path, nullptr);
    EXPECT(policy != nullptr && std::strcmp(lightwam_policy_device(policy), "cpu") == 0);
    EXPECT(!says(lightwam_policy_execution_info(policy), "auto"));
    lightwam_policy_close(policy);
    standin.set_device(1, 87, 0, kGigabyte);
}

void test_lost(const Standin& standin, const std::string& path) {
    lightwam_policy* const policy = open(path, "cuda");
    if (policy == nullptr) return;
    std::vector<float> actions;
    EXPECT(lightwam_policy_set_instruction(policy, kTask) == LIGHTWAM_OK);
    EXPECT(infer(policy, actions) == LIGHTWAM_OK);
    standin.fail("cuGraphLaunch", 1, kIllegalAddress);
    EXPECT(infer(policy, actions) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(says(lightwam_last_error(), "the GPU was lost") && says(lightwam_last_error(), "make a new policy"));
    EXPECT(infer(policy, actions) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(lightwam_policy_set_instruction(policy, kTask) == LIGHTWAM_DEVICE_ERROR);
    lightwam_policy* const another = open(path, "cuda");
    if (another != nullptr) {
        EXPECT(lightwam_policy_set_instruction(another, kTask) == LIGHTWAM_OK);
        EXPECT(infer(another, actions) == LIGHTWAM_OK);
    }
    lightwam_policy_close(another);
    lightwam_policy_close(policy);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    standin.set_launcher(run_toy, nullptr);
    standin.set_device(1, 87, 0, kGigabyte);
    test_chunk(standin, argv[1]);
    test_missing(standin, argv[1]);
    test_lost(standin, argv[1]);
    EXPECT(standin.alive() == 0 && standin.leaked() == 0);
    EXPECT(std::string(standin.misuse()).empty());
    std::fputs(standin.misuse(), stderr);
    return finish();
}
