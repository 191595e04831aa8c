// SPDX-License-Identifier: Apache-2.0
// CUDA does not outlive a fork: in the child an inherited policy and a new one on the GPU are refused by name, the CPU
// works, and the driver is not called.
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

constexpr int kNotInitialized = 3;
constexpr const char* kStarted = "CUDA was started before this process was forked";

// Calls of the driver that would give something back or compute.
std::uint64_t calls(const Standin& standin) {
    std::uint64_t total = 0;
    for (const char* name : {"cuInit", "cuGraphLaunch", "cuStreamSynchronize", "cuMemFree_v2", "cuModuleUnload",
                             "cuCtxPushCurrent_v2", "cuDevicePrimaryCtxRelease_v2"})
        total += standin.calls(name);
    return total;
}

void in_child(const Standin& standin, const std::string& path, std::unique_ptr<Policy>& inherited) {
    const std::uint64_t before = calls(standin);
    EXPECT(throws_with<Error>("was opened before this process was forked",
                              [&] { infer(*inherited, SmallObservation().view()); }));
    inherited.reset();
    EXPECT(throws_with<Error>(kStarted, [&] { const Policy another(path, on_cuda()); }));
    EXPECT(calls(standin) == before);
    PolicyOptions automatic;
    automatic.device = "auto";
    const Policy fallen_back(path, automatic);
    EXPECT(fallen_back.info().device == "cpu");
    EXPECT(fallen_back.info().execution_info.find(kStarted) != std::string::npos);
    EXPECT(Policy(path).info().device == "cpu");
}

void test_fork(const Standin& standin, const std::string& path) {
    auto policy = std::make_unique<Policy>(path, on_cuda());
    policy->set_instruction(kTask);
    const SmallObservation seen;
    const std::vector<float> expected = infer(*policy, seen.view());
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        in_child(standin, path, policy);
        ::_exit(finish());
    }
    int status = -1;
    EXPECT(::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT(infer(*policy, seen.view()) == expected);
}

// The progress of tune forks; what goes on in the child is refused before it meets the driver.
void test_fork_while_tuning(const std::string& path) {
    Policy policy(path, on_cuda());
    policy.set_instruction(kTask);
    const SmallObservation seen;
    pid_t child = -1;
    const auto progress = [&](int, int) {
        if (child == -1) child = ::fork();
    };
    if (throws_with<Error>("was opened before this process was forked",
                           [&] { policy.tune(seen.view(), 1, progress); })) {
        EXPECT(child == 0);
        ::_exit(finish());
    }
    int status = -1;
    EXPECT(child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// What a driver answers that another library started before the fork.
void test_driver_of_another_library(const Standin& standin, const std::string& path) {
    standin.fail("cuInit", 1, kNotInitialized);
    EXPECT(throws_with<Error>("after another library had started CUDA: start processes with",
                              [&] { const Policy policy(path, on_cuda()); }));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    standin.set_launcher(run_toy, nullptr);
    standin.set_device(1, 87, 0, kGigabyte);
    test_driver_of_another_library(standin, argv[1]);
    test_fork(standin, argv[1]);
    test_fork_while_tuning(argv[1]);
    return finish();
}
