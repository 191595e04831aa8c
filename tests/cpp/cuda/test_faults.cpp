// SPDX-License-Identifier: Apache-2.0
// Every call of every driver function fails once: a typed error, nothing leaks, and a new policy works.
#include <string>
#include <utility>

#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

constexpr const char* kFunctions[] = {
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDriverGetVersion",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuCtxGetStreamPriorityRange",
    "cuStreamCreateWithPriority",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
};
constexpr int kOutOfMemory = 2;
constexpr int kLaunchFailed = 719;

// Everything that a policy does: load, two instructions, frames that grow.
std::vector<float> whole_life(const std::string& path) {
    Policy policy(path, on_cuda());
    const SmallObservation small(4, 4);
    const SmallObservation large(9, 9);
    policy.set_instruction("open the drawer");
    infer(policy, small.view());
    policy.set_instruction(kTask);
    infer(policy, large.view());
    return infer(policy, small.view());
}

void complain(const char* function, std::uint64_t nth, const std::string& what) {
    std::fprintf(stderr, "%s, call %d: %s\n", function, static_cast<int>(nth), what.c_str());
    ++failures;
}

void test_every_call(const Standin& standin, const std::string& path, const std::vector<float>& good, int result) {
    std::uint64_t leaked_before = standin.leaked();
    for (const char* function : kFunctions) {
        const std::string name = function;
        const std::uint64_t before = standin.calls(function);
        EXPECT(whole_life(path) == good);
        const std::uint64_t calls = standin.calls(function) - before;
        for (std::uint64_t nth = 1; nth <= calls; ++nth) {
            standin.fail(function, static_cast<int>(nth), result);
            ErrorKind kind = ErrorKind::internal;
            std::string message;
            try {
                whole_life(path);
            } catch (const Error& error) {
                kind = error.kind();
                message = error.what();
            }
            // An error while everything is given back goes unheard.
            const bool at_the_end = message.empty();
            if (!at_the_end && (kind != ErrorKind::device || message.find("CUDA_ERROR") == std::string::npos ||
                                message.find('\n') != std::string::npos))
                complain(function, nth, message);
            if (at_the_end && name != "cuStreamSynchronize" && name != "cuCtxPushCurrent_v2")
                complain(function, nth, "no error");
            // Where the context cannot be used to give memory back, it goes with the context.
            const std::uint64_t leaked = standin.leaked() - std::exchange(leaked_before, standin.leaked());
            if (standin.alive() != 0 || (leaked != 0 && !(at_the_end && name == "cuCtxPushCurrent_v2")))
                complain(function, nth,
                         std::to_string(standin.alive()) + " alive, " + std::to_string(leaked) + " leaked");
            if (const std::string misuse = standin.misuse(); !misuse.empty()) complain(function, nth, misuse);
        }
    }
}

// A driver that does not start is started again for the next policy.
void test_start(const Standin& standin, const std::string& path) {
    constexpr int kNoDevice = 100;
    for (const auto& [result, why] : {std::pair(kNoDevice, "there is no GPU that this process may use"),
                                      std::pair(kLaunchFailed, "restart the machine or install the driver again")}) {
        standin.fail("cuInit", 1, result);
        EXPECT(throws_with<Error>(why, [&] { Policy(path, on_cuda()); }));
    }
    EXPECT(Policy(path, on_cuda()).info().device == "cuda");
    EXPECT(standin.alive() == 0);
}

// A policy that lost its GPU says so from then on; one made meanwhile works.
void test_lost(const Standin& standin, const std::string& path, const std::vector<float>& good) {
    Policy policy(path, on_cuda());
    const SmallObservation seen(4, 4);
    policy.set_instruction(kTask);
    EXPECT(infer(policy, seen.view()) == good);
    standin.set_launcher([](void*, const standin_launch*) { return 1; }, nullptr);
    EXPECT(throws_with<Error>("the GPU was lost: computing actions on the GPU: the GPU driver says CUDA_ERROR_719",
                              [&] { infer(policy, seen.view()); }));
    standin.set_launcher(run_toy, nullptr);
    EXPECT(throws_with<Error>("make a new policy", [&] { infer(policy, seen.view()); }));
    EXPECT(throws_with<Error>("make a new policy", [&] { policy.set_instruction(kTask); }));
    EXPECT(throws_with<Error>("make a new policy", [&] { policy.set_instruction("something new"); }));
    EXPECT(standin.alive() == 0);
    EXPECT(whole_life(path) == good);
    EXPECT(policy.info().name == "small");
}

// An error that the device survives leaves the policy as it was.
void test_survived(const Standin& standin, const std::string& path, const std::vector<float>& good) {
    const SmallObservation seen(4, 4);
    const SmallObservation large(30, 30);
    Policy policy(path, on_cuda());
    policy.set_instruction(kTask);
    for (const char* function : {"cuLaunchKernel", "cuStreamBeginCapture_v2", "cuStreamEndCapture",
                                 "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuMemcpyDtoHAsync_v2"}) {
        standin.fail(function, 1, 901);
        EXPECT(throws_with<Error>("CUDA_ERROR_901", [&] { infer(policy, seen.view()); }));
    }
    // What fails only when something is recorded was requested above, once each; from here on the graph is there.
    EXPECT(infer(policy, seen.view()) == good);
    standin.fail("cuMemAlloc_v2", 1, kOutOfMemory);
    EXPECT(throws_with<Error>("for the frames of camera 'agentview'", [&] { infer(policy, large.view()); }));
    EXPECT(infer(policy, seen.view()) == good);
    standin.fail("cuLaunchKernel", 1, 1);
    EXPECT(throws_with<Error>("launching 'encode'", [&] { policy.set_instruction("open the drawer"); }));
    EXPECT(policy.instruction() == kTask && infer(policy, seen.view()) == good);
}

// A slot whose computation failed holds nothing: its former instruction is computed again.
void test_failed_slot(const Standin& standin, const std::string& path) {
    PolicyOptions options = on_cuda();
    options.instruction_cache_capacity = 2;
    Policy policy(path, options);
    policy.set_instruction(kTask);
    policy.set_instruction("open the drawer");
    standin.fail("cuLaunchKernel", 1, 1);
    EXPECT(throws_with<Error>("launching 'encode'", [&] { policy.set_instruction("close the drawer"); }));
    policy.set_instruction(kTask);
    EXPECT(policy.instruction_computations() == 3);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    const std::string path = argv[1];
    standin.set_launcher(run_toy, nullptr);
    standin.set_device(1, 87, 0, kGigabyte);
    test_start(standin, path);
    for (const int integrated : {0, 1}) {
        standin.set_device(1, 87, integrated, kGigabyte);
        const std::vector<float> good = whole_life(path);
        test_every_call(standin, path, good, kOutOfMemory);
        test_every_call(standin, path, good, kLaunchFailed);
        if (integrated == 0) {
            test_lost(standin, path, good);
            test_survived(standin, path, good);
            test_failed_slot(standin, path);
        }
    }
    EXPECT(standin.alive() == 0 && std::string(standin.misuse()).empty());
    return finish();
}
