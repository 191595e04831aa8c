// SPDX-License-Identifier: Apache-2.0
// The public C++ interface: caches, errors, and that the policy stays usable after each of them.
#include <limits>
#include <string>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"
#include "small_engine.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

PolicyOptions one_thread() {
    PolicyOptions options;
    options.threads = 1;
    return options;
}

void test_info(const std::string& path) {
    const Policy policy(path, one_thread());
    const PolicyInfo& info = policy.info();
    EXPECT(info.name == "small" && info.precision == "f32" && info.starts_at_images && info.has_text_encoder);
    EXPECT(info.horizon == 4 && info.action_width == 3 && info.replan_steps == 2 && info.state_width == 5);
    EXPECT(info.cameras.size() == 2 && info.cameras[0].name == "agentview" && info.cameras[0].rotate_180);
    EXPECT(info.instructions.size() == 1 && info.instructions[0] == kTask);
    EXPECT(info.execution_info.find("1 thread (as requested)") != std::string::npos);
}

// A signal's handler, say, that wants the opening to end.
void test_an_opening_that_is_ended(const std::string& path) {
    struct Ended {};
    PolicyOptions options = one_thread();
    int calls = 0;
    options.while_opening = [&] { ++calls; };
    {
        const Policy policy(path, options);
    }
    EXPECT(calls > 3);
    for (int last = 1; last <= calls; ++last) {
        options.while_opening = [left = last]() mutable {
            if (--left == 0) throw Ended();
        };
        bool ended = false;
        try {
            const Policy policy(path, options);
        } catch (const Ended&) {
            ended = true;
        }
        EXPECT(ended);
    }
}

void test_instructions(const std::string& path) {
    Policy policy(path, one_thread());
    const SmallObservation seen;
    EXPECT(throws_with<Error>("no instruction is set", [&] { infer(policy, seen.view()); }));
    policy.set_instruction(kTask);
    const std::vector<float> first = infer(policy, seen.view());
    policy.set_instruction("open the drawer");
    const std::vector<float> other = infer(policy, seen.view());
    EXPECT(first != other && policy.instruction_computations() == 2);
    policy.set_instruction(kTask);
    EXPECT(infer(policy, seen.view()) == first && policy.instruction_computations() == 2);
    EXPECT(throws_with<Error>("holds no word", [&] { policy.set_instruction("..."); }));
    EXPECT(policy.instruction() == kTask && infer(policy, seen.view()) == first);
}

void test_cache_of_one(const std::string& path) {
    PolicyOptions options = one_thread();
    options.instruction_cache_capacity = 0;  // the instruction in force stays all the same
    Policy policy(path, options);
    const SmallObservation seen;
    policy.set_instruction("a");
    const std::vector<float> first = infer(policy, seen.view());
    policy.set_instruction("b");
    policy.set_instruction("b");
    EXPECT(policy.instruction_computations() == 2);
    policy.set_instruction("a");
    EXPECT(policy.instruction_computations() == 3 && infer(policy, seen.view()) == first);
}

void test_bad_observations(const std::string& path) {
    Policy policy(path, one_thread());
    policy.set_instruction(kTask);
    const SmallObservation good;
    const std::vector<float> expected = infer(policy, good.view());
    const auto expect_error = [&](const Observation& observation, const std::string& why) {
        std::vector<float> actions(kActions, 7.0F);
        EXPECT(throws_with<Error>(why, [&] { policy.infer(observation, actions.data(), actions.size()); }));
        for (const float action : actions) EXPECT(action == 7.0F);
        EXPECT(infer(policy, good.view()) == expected);
    };
    SmallObservation bad;
    Observation view = bad.view();
    view.image_count = 1;
    expect_error(view, "camera 'agentview' is missing");
    bad.images[1].camera = "left";
    expect_error(bad.view(), "camera 'left' is not one");
    bad.images[1].camera = "wrist";
    expect_error(bad.view(), "camera 'wrist' is there twice");
    bad.images[1].camera = "agentview";
    bad.images[1].pixels = nullptr;
    expect_error(bad.view(), "has no pixels");
    bad.images[1].height = 0;
    expect_error(bad.view(), "0 x 10 pixels");
    bad.images[1].height = -5;
    expect_error(bad.view(), "-5 x 10 pixels");
    view = good.view();
    view.state = nullptr;
    expect_error(view, "the state is missing");
    view = good.view();
    view.state_width = 4;
    expect_error(view, "the state has 4 numbers; expected 5");
    view = good.view();
    view.latents = good.latents.data();
    expect_error(view, "starts at images");
    bad = SmallObservation();
    bad.state[3] = std::numeric_limits<float>::infinity();
    expect_error(bad.view(), "state[3] is inf");
    expect_error(good.view(false), "starts at images");
}

void test_latents(const std::string& path) {
    Policy policy(path, one_thread());
    policy.set_instruction(kTask);
    const SmallObservation seen;
    infer(policy, seen.view(false));
    EXPECT(throws_with<Error>("images were given", [&] { infer(policy, seen.view(true)); }));
    Observation view = seen.view(false);
    view.latent_count -= 1;
    EXPECT(throws_with<Error>("383 numbers; expected 384", [&] { infer(policy, view); }));
    EXPECT(throws_with<Error>("unknown to engine 'small'", [&] { policy.set_instruction("something else"); }));
}

void test_options(const std::string& path) {
    const auto expect_error = [&](auto change, const std::string& why) {
        PolicyOptions options;
        change(options);
        EXPECT(throws_with<Error>(why, [&] { Policy(path, options); }));
    };
    expect_error([](PolicyOptions& o) { o.device = "cuda"; }, "has no machine code for a GPU");
    expect_error([](PolicyOptions& o) { o.device = "npu"; }, "device 'npu' is unknown");
    expect_error([](PolicyOptions& o) { o.precision = "bf16"; }, "computes in f32");
    expect_error([](PolicyOptions& o) { o.precision = "f8"; }, "precision 'f8' is unknown");
    expect_error([](PolicyOptions& o) { o.threads = -1; }, "threads is -1");
    expect_error([](PolicyOptions& o) { o.threads = 5000; }, "threads is 5000");
}

void test_threads_and_moves(const std::string& path) {
    const SmallObservation seen(70, 50);
    std::vector<float> expected;
    for (int threads = 1; threads <= 3; ++threads) {
        PolicyOptions options;
        options.threads = threads;
        Policy policy(path, options);
        policy.set_instruction(kTask);
        const std::vector<float> actions = infer(policy, seen.view());
        if (threads == 1) expected = actions;
        EXPECT(actions == expected);
        Policy moved(std::move(policy));
        EXPECT(infer(moved, seen.view()) == expected);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string folder = argv[1];
    const std::string images = folder + "/small_images.lwam";
    test_info(images);
    test_an_opening_that_is_ended(images);
    test_instructions(images);
    test_cache_of_one(images);
    test_bad_observations(images);
    test_latents(folder + "/small_latents.lwam");
    test_options(images);
    test_threads_and_moves(images);
    return finish();
}
