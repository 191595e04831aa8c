// SPDX-License-Identifier: Apache-2.0
// Tactics on the GPU that the stand-in driver plays: timed where they run, chosen by a file, and what if not.
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

namespace fs = std::filesystem;

constexpr int kRepeats = 2;
constexpr int kOutOfMemory = 2;
constexpr int kLaunchFailed = 719;

// Toy kernels of which some are slow by the GPU's clock, and one
// may compute something else.
struct Workshop {
    const Standin& standin;
    std::map<std::string, double, std::less<>> slow = {};  // entry -> seconds
    std::string wrong = {};                                // entry
    std::set<std::string> launched = {};

    static int run(void* user, const standin_launch* launch) {
        auto& on = *static_cast<Workshop*>(user);
        on.launched.insert(launch->entry);
        if (const auto found = on.slow.find(launch->entry); found != on.slow.end())
            on.standin.advance_clock(found->second);
        const int result = run_toy(nullptr, launch);
        if (on.wrong == launch->entry) {
            auto* const y = reinterpret_cast<float*>(launch->arguments[1]);
            for (std::size_t i = 0; i < kWidth; ++i) y[i] = -y[i];
        }
        return result;
    }
};

// The engine in a folder of its own, and the tuning file beside it.
struct Bench {
    explicit Bench(const std::string& source, const Standin& driver) : standin(driver), shop{driver} {
        fs::create_directories(folder);
        fs::copy_file(source, path, fs::copy_options::overwrite_existing);
        fs::remove_all(file);
        standin.set_device(1, 87, 0, kGigabyte);
        standin.set_launcher(Workshop::run, &shop);
    }
    ~Bench() {
        fs::remove_all(folder);
        EXPECT(standin.alive() == 0 && standin.leaked() == 0 && std::string(standin.misuse()).empty());
        standin.set_launcher(run_toy, nullptr);
    }
    const Standin& standin;
    Workshop shop;
    std::string folder = fs::temp_directory_path() / ("lightwam_tuning_" + std::to_string(::getpid()));
    std::string path = folder + "/policy.lwam";
    std::string file = path + ".tuning.json";
};

Tuning tune(Policy& policy, const SmallObservation& seen) {
    return policy.tune(seen.view(), kRepeats, [](int, int) {});
}

const TaskTiming& task(const Tuning& tuning, const std::string& label) {
    for (const TaskTiming& each : tuning.tasks)
        if (each.label == label) return each;
    std::abort();
}

// A file with one entry.
std::string document(const std::string& gpu, const std::string& target, int driver, const std::string& plan,
                     const std::string& tactics) {
    return R"({"format": "lightwam-tuning", "format_version": 1, "gpus": [{"gpu": ")" + gpu + R"(", "target": ")" +
           target + R"(", "driver": )" + std::to_string(driver) + R"(, "plan": ")" + plan + R"(", "tactics": )" +
           tactics + R"(, "tasks": []}]})";
}

// Tasks: encode (1 tactic), look (1), mix (2), double (3), act (1).
void test_times(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    Policy policy(bench.path, on_cuda());
    EXPECT(throws_with<Error>("no instruction is set", [&] { tune(policy, SmallObservation()); }));
    const SmallObservation seen;
    policy.set_instruction(kTask);
    policy.set_instruction("open the drawer");
    policy.set_instruction(kTask);  // kept, while the inputs of set_instruction are still the other's
    const std::vector<float> actions = infer(policy, seen.view());
    const std::uint64_t modules = standin.live("modules");
    // A tactic that is a little faster is no reason to leave the default.
    bench.shop.slow = {{"mix_kernel", 100},      {"mix_kernel_1", 99},     {"double_kernel", 200},
                       {"double_kernel_1", 300}, {"double_kernel_2", 150}, {"encode_kernel", 400}};
    std::vector<std::pair<int, int>> heard;
    const Tuning tuning =
        policy.tune(seen.view(), kRepeats, [&](int done, int total) { heard.emplace_back(done, total); });
    EXPECT(tuning.gpu == "Stand-in" && tuning.target == "sm_87" && tuning.driver == 12060);
    EXPECT(tuning.plan.size() == 16 && tuning.cosine > 0.999999);
    EXPECT(tuning.tasks.size() == 5 && task(tuning, "double").tactics.size() == 3);
    const auto about = [](double value, double expected) { return value >= expected && value < expected + 10; };
    EXPECT(task(tuning, "mix").chosen == 0 && about(task(tuning, "mix").seconds[1], 99));
    EXPECT(task(tuning, "double").chosen == 2 && about(task(tuning, "double").seconds[0], 200));
    EXPECT(about(task(tuning, "double").seconds[1], 300) && about(task(tuning, "double").seconds[2], 150));
    EXPECT(task(tuning, "encode").launches == 1 && about(task(tuning, "encode").seconds[0], 400));
    EXPECT(about(tuning.default_seconds, 300) && about(tuning.tuned_seconds, 250));
    // Warm-up and repeats of three rounds of tactics, then of the default and the choice.
    EXPECT(heard.size() == (3 + kRepeats) * 5 && heard.back() == std::make_pair(25, 25));
    // The policy is as it was.
    EXPECT(standin.live("modules") == modules && policy.instruction() == kTask);
    EXPECT(infer(policy, seen.view()) == actions && policy.instruction_computations() == 2);
}

// Tactics that are fast by themselves and slow together are not chosen.
void test_slower_chunk(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    Policy policy(bench.path, on_cuda());
    policy.set_instruction(kTask);
    bench.shop.slow = {{"double_kernel", 100}};
    const SmallObservation seen;
    const Tuning tuning = policy.tune(seen.view(), kRepeats, [&](int done, int) {
        if (done == (3 + kRepeats) * 3) bench.shop.slow = {{"double_kernel_1", 100}, {"double_kernel_2", 100}};
    });
    EXPECT(task(tuning, "double").chosen == 0 && tuning.tuned_seconds == tuning.default_seconds);
}

void test_other_actions(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    Policy policy(bench.path, on_cuda());
    policy.set_instruction(kTask);
    const SmallObservation seen;
    const std::vector<float> actions = infer(policy, seen.view());
    bench.shop.slow = {{"double_kernel", 1.0}, {"double_kernel_1", 100}};
    bench.shop.wrong = "double_kernel_2";
    EXPECT(throws_with<Error>("compute other actions than the default ones: cosine -1", [&] { tune(policy, seen); }));
    EXPECT(infer(policy, seen.view()) == actions);
}

void test_stopped(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    Policy policy(bench.path, on_cuda());
    policy.set_instruction(kTask);
    const SmallObservation seen;
    struct Stop {};
    bool stopped = false;
    try {
        policy.tune(seen.view(), kRepeats, [](int done, int) {
            if (done == 7) throw Stop();
        });
    } catch (const Stop&) {
        stopped = true;
    }
    EXPECT(stopped && !infer(policy, seen.view()).empty());
    PolicyOptions on_cpu;
    Policy policy_on_cpu(bench.path, on_cpu);
    policy_on_cpu.set_instruction(kTask);
    EXPECT(throws_with<Error>("runs on the CPU", [&] { tune(policy_on_cpu, seen); }));
}

void test_choice(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    std::string plan;
    const SmallObservation seen;
    std::vector<float> actions;
    // What a policy says, what it warns of, and which double it runs.
    const auto expect = [&](const std::string& says, const std::string& warns, const std::string& runs) {
        bench.shop.launched.clear();
        Policy policy(bench.path, on_cuda());
        policy.set_instruction(kTask);
        const std::vector<float> computed = infer(policy, seen.view());
        if (actions.empty()) actions = computed;
        EXPECT(computed == actions && bench.shop.launched.count(runs) == 1);
        const std::string& warning = policy.info().warning;
        const bool good = policy.info().execution_info.find(says) != std::string::npos &&
                          (warns.empty() ? warning.empty() : warning.find(warns) != std::string::npos);
        if (!good) std::fprintf(stderr, "%s\n%s\n", policy.info().execution_info.c_str(), warning.c_str());
        EXPECT(good && warning.find('\n') == std::string::npos);
        if (plan.empty()) plan = tune(policy, seen).plan;
    };
    const auto damaged = [&](const std::string& text, const std::string& warns) {
        write_file(bench.file, text);
        expect("default tactics (the tuning file does not fit; run 'lightwam tune'", warns, "double_kernel");
    };
    expect("default tactics (not tuned; run 'lightwam tune' for this GPU)", "", "double_kernel");
    write_file(bench.file, document("Stand-in", "sm_87", 12060, plan, "[0, 0, 1, 2, 0]"));
    expect("as one CUDA graph a chunk, tactics tuned on this GPU, f32", "", "double_kernel_2");

    damaged(document("Other", "sm_87", 12060, plan, "[0, 0, 1, 2, 0]"),
            "has no entry for GPU 'Stand-in' (sm_87), its driver (CUDA 12.6) and this engine's machine code: the "
            "default tactics run; run 'lightwam tune'");
    damaged(document("Stand-in", "sm_110", 12060, plan, "[0, 0, 1, 2, 0]"), "has no entry");
    damaged(document("Stand-in", "sm_87", 13000, plan, "[0, 0, 1, 2, 0]"), "has no entry");
    damaged(document("Stand-in", "sm_87", 12060, "0123456789abcdef", "[0, 0, 1, 2, 0]"), "has no entry");
    damaged(document("Stand-in", "sm_87", 12060, plan, "[0, 0, 1, 2]"), "has 4 numbers; expected one for each of 5");
    damaged(document("Stand-in", "sm_87", 12060, plan, "[0, 0, 1, 3, 0]"),
            "tactic 3 of task 'double'; expected one of 0 to 2");
    damaged(document("Stand-in", "sm_87", 12060, plan, "[0, 0, -1, 0, 0]"), "tactic -1 of task 'mix'");
    damaged(document("Stand-in", "sm_87", 12060, plan, "[0, 0, 1, 2.0, 0]"), "expected integers");
    damaged(document("Stand-in", "sm_87", 12060, plan, "{}"), "'tactics' is missing or not a list");
    damaged("", "it is empty or cannot be read");
    damaged("{\"format\":\n", "is not valid JSON");
    damaged("[]", "tuning file '");
    damaged(R"({"format": "lightwam-tuning", "format_version": 2, "gpus": []})", "format_version");
    damaged(R"({"format": "lightwam-engine", "format_version": 1, "gpus": []})", "'format' is not 'lightwam-tuning'");
    damaged(R"({"format": "lightwam-tuning", "format_version": 1, "gpus": [3]})", "entry 0 of 'gpus'");
    damaged(std::string((4 << 20) + 1, ' '), "it is longer than");
    fs::remove(bench.file);
    fs::create_directory(bench.file);
    expect("default tactics", "it is empty or cannot be read", "double_kernel");
}

// Timing stages costs infer nothing: it reads no clock.
void test_stages(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    Policy policy(bench.path, on_cuda());
    policy.set_instruction(kTask);
    bench.shop.slow = {{"look_kernel", 100}, {"mix_kernel", 200}, {"double_kernel", 300}, {"act_kernel", 400}};
    std::vector<float> actions(kActions);
    for (const SmallObservation& seen : {SmallObservation(4, 4), SmallObservation(9, 9)}) {
        const std::vector<float> expected = infer(policy, seen.view());
        const std::uint64_t read = standin.calls("cuEventRecordWithFlags");
        Timings timings;
        policy.infer(seen.view(), actions.data(), actions.size(), &timings);
        EXPECT(!timings.present[0] && !timings.present[2] && standin.calls("cuEventRecordWithFlags") == read);
        for (int again = 0; again < 2; ++again) {
            policy.infer_by_stage(seen.view(), actions.data(), actions.size(), timings);
            EXPECT(actions == expected);
            for (const auto& [stage, seconds] : std::map<Stage, double>{{Stage::preprocess, 100},
                                                                        {Stage::backbone, 200},
                                                                        {Stage::expert, 300},
                                                                        {Stage::postprocess, 400}}) {
                const auto at = static_cast<std::size_t>(stage);
                EXPECT(timings.present[at] && timings.seconds[at] >= seconds && timings.seconds[at] < seconds + 10);
            }
            EXPECT(!timings.present[static_cast<std::size_t>(Stage::vae)]);
        }
        EXPECT(standin.calls("cuEventRecordWithFlags") == read + 5);  // recorded once
    }
}

// Every call of every driver function fails once while tactics are timed: a typed error, nothing leaks, and the policy
// goes on unless the device is lost.
void test_faults(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    const SmallObservation seen;
    for (const char* function :
         {"cuCtxPushCurrent_v2", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemsetD8Async",
          "cuStreamSynchronize", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags",
          "cuGraphLaunch", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel",
          "cuEventCreate", "cuEventRecordWithFlags", "cuEventElapsedTime"}) {
        for (const int result : {kOutOfMemory, kLaunchFailed}) {
            std::uint64_t calls = 1;
            for (std::uint64_t nth = 1; nth <= calls; ++nth) {
                Policy policy(bench.path, on_cuda());
                policy.set_instruction(kTask);
                const std::vector<float> actions = infer(policy, seen.view());
                const std::uint64_t alive = standin.alive();
                if (nth == 1) {
                    const std::uint64_t before = standin.calls(function);
                    tune(policy, seen);
                    calls = standin.calls(function) - before;
                    EXPECT(calls > 0);
                }
                standin.fail(function, static_cast<int>(nth), result);
                std::string message;
                try {
                    policy.tune(seen.view(), kRepeats, [](int, int) {});
                } catch (const Error& error) {
                    message = error.what();
                    EXPECT(error.kind() == ErrorKind::device);
                }
                standin.fail(function, 0, result);  // none is left over
                // Two waits are for giving things back; what fails then goes unheard, but a lost device is found out.
                const bool at_the_end = message.empty() && std::string_view(function) == "cuStreamSynchronize";
                if (!at_the_end && message.find("CUDA_ERROR") == std::string::npos)
                    std::fprintf(stderr, "%s, call %d: '%s'\n", function, static_cast<int>(nth), message.c_str());
                EXPECT(at_the_end || message.find("CUDA_ERROR") != std::string::npos);
                if (result == kLaunchFailed) continue;
                EXPECT(standin.alive() == alive && infer(policy, seen.view()) == actions);
            }
            EXPECT(standin.alive() == 0 && standin.leaked() == 0);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    const std::string source = argv[1];
    test_times(standin, source);
    test_slower_chunk(standin, source);
    test_other_actions(standin, source);
    test_stopped(standin, source);
    test_choice(standin, source);
    test_stages(standin, source);
    test_faults(standin, source);
    std::fputs(standin.misuse(), stderr);
    return finish();
}
