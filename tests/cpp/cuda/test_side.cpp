// SPDX-License-Identifier: Apache-2.0
// A program with a side stream: the same bits in every order that the plan allows, whether the
// program is recorded (act) or not (set_instruction); and what the stand-in does not record.
#include <string>

#include "cuda/graph.hpp"
#include "engine_tensors.hpp"
#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

constexpr unsigned kOrders = 12;  // oldest first, newest first, ten random ones

// What the plan computes, one launch after the other.
std::vector<float> expected(const engine::EngineFile& file, const SmallObservation& seen) {
    std::vector<float> context = tensor_of(file, "instruction.0");
    const auto text_rows = static_cast<std::int32_t>(context.size() / 8);
    context.resize(kKeys);
    std::vector<float> keys(kKeys), row(kWidth), driven(kWidth), steady(kWidth), mixed(kWidth), actions(kActions);
    encode(context.data(), &text_rows, keys.data());
    add(keys.data(), keys.data(), kKeys, keys.data());
    drive(seen.state.data(), driven.data());
    twice(driven.data(), steady.data());
    const std::uint8_t* const frames[2] = {seen.images[1].pixels, seen.images[0].pixels};
    const auto height = static_cast<std::int32_t>(seen.images[0].height);
    const auto width = static_cast<std::int32_t>(seen.images[0].width);
    const std::int32_t sizes[4] = {height, width, height, width};
    look(frames, sizes, row.data());
    mix(keys.data(), row.data(), tensor_of(file, "state.weight").data(), tensor_of(file, "state.bias").data(),
        seen.state.data(), mixed.data());
    add(mixed.data(), steady.data(), kWidth, row.data());
    twice(row.data(), mixed.data());
    act(mixed.data(), actions.data());
    return actions;
}

// Computes a launch and writes down its first letter.
int run_and_tell(void* user, const standin_launch* launch) {
    static_cast<std::string*>(user)->push_back(launch->entry[0]);
    return run_toy(nullptr, launch);
}

// The launches of three chunks of different states, in the order in which they ran.
std::string run(const Standin& standin, const std::string& path, unsigned order) {
    std::string ran;
    standin.set_launcher(run_and_tell, &ran);
    standin.set_order(order);
    const engine::EngineFile file(path);
    Policy policy(path, on_cuda());
    EXPECT(standin.live("streams") == 2);
    policy.set_instruction(kTask);
    const std::uint64_t waits = standin.calls("cuStreamWaitEvent");
    SmallObservation seen(9, 7);
    for (const float state : {0.5F, -2.0F, 3.0F}) {
        seen.state.assign(kStateWidth, state);
        EXPECT(infer(policy, seen.view()) == expected(file, seen));
    }
    EXPECT(standin.calls("cuStreamWaitEvent") == waits + 2);  // recorded once
    return ran;
}

void test_orders(const Standin& standin, const std::string& path) {
    std::string random;
    for (const int integrated : {0, 1}) {
        standin.set_device(1, 87, integrated, kGigabyte);
        // encode, encode, merge; a chunk: drive, double | look, mix, then add, double, act.
        EXPECT(run(standin, path, STANDIN_OLDEST) ==
               "eem"
               "ddlmada"
               "ddlmada"
               "ddlmada");
        EXPECT(run(standin, path, STANDIN_NEWEST) ==
               "eem"
               "lmddada"
               "lmddada"
               "lmddada");
        for (unsigned order = 2; order < kOrders; ++order) random += run(standin, path, order);
    }
    EXPECT(random.find("dlmd") != std::string::npos && random.find("ldmd") != std::string::npos);
    EXPECT(standin.alive() == 0 && standin.leaked() == 0);
    standin.set_order(STANDIN_OLDEST);
    standin.set_launcher(run_toy, nullptr);
}

// What times stages or launches runs them in order; tuning also times the chunk as it runs.
void test_timed(const Standin& standin, const std::string& path) {
    const engine::EngineFile file(path);
    std::string ran;
    standin.set_launcher(run_and_tell, &ran);
    standin.set_order(STANDIN_NEWEST);
    Policy policy(path, on_cuda());
    policy.set_instruction(kTask);
    const SmallObservation seen(9, 7);
    ran.clear();
    std::vector<float> actions(kActions);
    Timings timings;
    policy.infer_by_stage(seen.view(), actions.data(), actions.size(), timings);
    EXPECT(actions == expected(file, seen) && ran == "ddlmada");
    EXPECT(timings.present[static_cast<int>(Stage::preprocess)] && timings.present[static_cast<int>(Stage::backbone)]);
    const Tuning tuning = policy.tune(seen.view(), 1, [](int, int) {});
    EXPECT(tuning.tasks.size() == 8 && tuning.cosine > 0.999999);
    EXPECT(ran.find("eemddlmada") != std::string::npos && ran.find("eemlmddada") != std::string::npos);
    EXPECT(infer(policy, seen.view()) == actions);
    standin.set_order(STANDIN_OLDEST);
    standin.set_launcher(run_toy, nullptr);
}

// After an error nothing of the side stream still runs: its memory may be somebody else's next.
void test_error(const Standin& standin, const std::string& path) {
    std::string ran;
    standin.set_launcher(run_and_tell, &ran);
    Policy policy(path, on_cuda());
    standin.fail("cuLaunchKernel", 2, 1);
    EXPECT(throws_with<Error>("launching 'encode'", [&] { policy.set_instruction(kTask); }));
    EXPECT(ran == "e");
    standin.set_launcher(run_toy, nullptr);
}

// A plan without a side stream has one stream.
void test_without(const Standin& standin, const std::string& path) {
    const Policy policy(path, on_cuda());
    EXPECT(standin.live("streams") == 1 && standin.live("events") == 0);
}

// What a driver does not record, so that these tests would show it.
void test_recordings(const Standin& standin) {
    using cuda::Result;
    const cuda::Driver& driver = cuda::load_driver();
    const cuda::Gpu gpu;
    const cuda::PrimaryContext context(driver, gpu);
    const cuda::ContextScope scope(driver, context);
    const cuda::StreamOwner main(driver);
    const cuda::StreamOwner side(driver, cuda::StreamPriority::last);
    const cuda::EventOwner event(driver);
    const auto record = [&](cuda::Stream stream) {
        EXPECT(driver.event_record(event.handle(), stream) == Result::success);
    };
    const auto wait = [&](cuda::Stream stream) { return driver.stream_wait_event(stream, event.handle(), 0); };
    const auto begin = [&] { EXPECT(driver.stream_begin_capture(main.handle(), 1) == Result::success); };
    const auto end = [&](cuda::Stream stream) {
        cuda::Graph graph = nullptr;
        const Result result = driver.stream_end_capture(stream, &graph);
        if (graph != nullptr) driver.graph_destroy(graph);
        return static_cast<int>(result);
    };
    cuda::GraphExec empty = nullptr;
    const auto put_on = [&](cuda::Stream stream) { EXPECT(driver.graph_launch(empty, stream) == Result::success); };
    cuda::Graph nothing = nullptr;
    begin();
    EXPECT(driver.stream_end_capture(main.handle(), &nothing) == Result::success);
    EXPECT(driver.graph_instantiate(&empty, nothing, cuda::kGraphNodePriority) == Result::success);
    driver.graph_destroy(nothing);

    EXPECT(wait(main.handle()) == Result::success);  // for an event that was never recorded
    begin();
    record(main.handle());
    EXPECT(wait(side.handle()) == Result::success);
    put_on(side.handle());
    EXPECT(end(side.handle()) == 902);                   // another stream began
    EXPECT(end(main.handle()) == 904);                   // the work of the other stream is not joined
    EXPECT(static_cast<int>(wait(main.handle())) == 1);  // a recording that has ended
    begin();
    record(side.handle());
    EXPECT(static_cast<int>(wait(main.handle())) == 905);  // what is not recorded
    EXPECT(end(main.handle()) == 901);
    begin();
    record(main.handle());
    EXPECT(wait(side.handle()) == Result::success);
    EXPECT(static_cast<int>(driver.stream_synchronize(side.handle())) == 900);
    EXPECT(end(main.handle()) == 901);
    EXPECT(driver.stream_synchronize(side.handle()) == Result::success);  // records no more
    driver.graph_exec_destroy(empty);
    EXPECT(std::string(standin.misuse()).empty());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    const std::string path = argv[1];
    standin.set_launcher(run_toy, nullptr);
    standin.set_device(1, 87, 0, kGigabyte);
    test_orders(standin, path);
    test_timed(standin, path);
    test_error(standin, path);
    test_without(standin, path.substr(0, path.rfind('/')) + "/small_gpu.lwam");
    test_recordings(standin);
    EXPECT(standin.alive() == 0 && standin.leaked() == 0);
    std::fputs(standin.misuse(), stderr);
    return finish();
}
