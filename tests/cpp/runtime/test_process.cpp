// SPDX-License-Identifier: Apache-2.0
// Forks at any moment of a process whose threads infer, open policies and set instructions: the child's own policy
// works, an inherited one is refused by name, and nothing waits for ever. A second argument: how many children (20).
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "expect.hpp"
#include "lightwam/policy.h"
#include "lightwam/policy.hpp"
#include "small_engine.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

constexpr unsigned kPatience = 60;  // seconds until a child that waits counts as hanging
constexpr const char* kRefused = "was opened before this process was forked";

PolicyOptions threads(int count) {
    PolicyOptions options;
    options.threads = count;
    return options;
}

std::unique_ptr<Policy> open(const std::string& path, int count) {
    auto policy = std::make_unique<Policy>(path, threads(count));
    policy->set_instruction(kTask);
    return policy;
}

// True when `body` throws an Error of that kind, for the fork.
template <typename Body>
bool refused(Body&& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.kind() == ErrorKind::device && std::string(error.what()).find(kRefused) != std::string::npos;
    }
    return false;
}

// Runs `body` in a child and waits for it.
template <typename Body>
void in_child(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(kPatience);
        failures = 0;
        body();
        ::_exit(finish());
    }
    int status = -1;
    EXPECT(child > 0 && ::waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) std::fprintf(stderr, "a child was ended by signal %d\n", WTERMSIG(status));
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void expect_refused(std::unique_ptr<Policy>& inherited) {
    const SmallObservation seen;
    EXPECT(refused([&] { infer(*inherited, seen.view()); }));
    EXPECT(refused([&] { inherited->set_instruction("open the drawer"); }));
    EXPECT(refused([&] { static_cast<void>(inherited->instruction()); }));
    EXPECT(refused([&] {
        Timings timings;
        float actions[kActions];
        inherited->infer_by_stage(seen.view(), actions, kActions, timings);
    }));
    EXPECT(inherited->info().name == "small" && inherited->instruction_computations() > 0);
    inherited.reset();
}

void expect_refused_in_c(lightwam_policy* inherited) {
    const SmallObservation seen;
    float actions[kActions];
    lightwam_observation observation{};
    observation.state = seen.state.data();
    observation.state_width = seen.state.size();
    EXPECT(lightwam_policy_infer(inherited, &observation, actions, kActions, nullptr) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(std::string(lightwam_last_error()).find(kRefused) != std::string::npos);
    EXPECT(lightwam_policy_set_instruction(inherited, kTask) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(lightwam_policy_camera(inherited, 0) != nullptr);
    lightwam_policy_close(inherited);
}

void test_forks(const std::string& path, int count) {
    const std::vector<float> expected = infer(*open(path, 1), SmallObservation().view());
    std::unique_ptr<Policy> busy = open(path, 2);
    std::unique_ptr<Policy> idle = open(path, 2);
    std::unique_ptr<Policy> listening = open(path, 1);
    lightwam_policy* in_c = nullptr;
    EXPECT(lightwam_policy_open(path.c_str(), nullptr, &in_c) == LIGHTWAM_OK);
    std::atomic<bool> stop{false};
    std::thread inferring([&] {
        while (!stop) infer(*busy, SmallObservation().view());
    });
    std::thread opening([&] {
        while (!stop) open(path, 2);
    });
    std::thread instructing([&] {
        for (int i = 0; !stop; ++i) listening->set_instruction("task " + std::to_string(i));
    });
    for (int i = 0; i < count; ++i) {
        ::usleep(static_cast<useconds_t>(i * 7919 % 5000));
        in_child([&] {
            std::unique_ptr<Policy> own = open(path, 1 + i % 2);
            EXPECT(infer(*own, SmallObservation().view()) == expected);
            expect_refused(busy);
            expect_refused(idle);
            expect_refused(listening);
            expect_refused_in_c(in_c);
            EXPECT(infer(*own, SmallObservation().view()) == expected);
            if (i % 4 != 0) return;
            in_child([&] {  // whose own is the grandchild's inherited one
                expect_refused(own);
                EXPECT(infer(*open(path, 2), SmallObservation().view()) == expected);
            });
            EXPECT(infer(*own, SmallObservation().view()) == expected);
        });
    }
    stop = true;
    inferring.join();
    opening.join();
    instructing.join();
    EXPECT(infer(*busy, SmallObservation().view()) == expected);
    lightwam_policy_close(in_c);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2 && argc != 3) return 2;
    test_forks(std::string(argv[1]) + "/small_images.lwam", argc == 3 ? std::stoi(argv[2]) : 20);
    return finish();
}
