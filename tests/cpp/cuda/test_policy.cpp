// SPDX-License-Identifier: Apache-2.0
// A policy on the GPU that the stand-in driver plays: what it computes, when it records, and what is an error.
#include <cmath>
#include <cstring>

#include "engine_tensors.hpp"
#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

// What the plan computes, from the observation and the instruction's known rows.
std::vector<float> expected(const engine::EngineFile& file, const Observation& observation) {
    std::vector<float> context = tensor_of(file, "instruction.0");
    const auto text_rows = static_cast<std::int32_t>(context.size() / 8);
    context.resize(kKeys);
    std::vector<float> keys(kKeys), seen(kWidth), mixed(kWidth), doubled(kWidth), actions(kActions);
    encode(context.data(), &text_rows, keys.data());
    // The observation has its cameras in another order than the engine.
    const ImageView& agentview = observation.images[1];
    const ImageView& wrist = observation.images[0];
    const std::uint8_t* const frames[2] = {agentview.pixels, wrist.pixels};
    const std::int32_t sizes[4] = {static_cast<std::int32_t>(agentview.height),
                                   static_cast<std::int32_t>(agentview.width), static_cast<std::int32_t>(wrist.height),
                                   static_cast<std::int32_t>(wrist.width)};
    look(frames, sizes, seen.data());
    mix(keys.data(), seen.data(), tensor_of(file, "state.weight").data(), tensor_of(file, "state.bias").data(),
        observation.state, mixed.data());
    twice(mixed.data(), doubled.data());
    act(doubled.data(), actions.data());
    return actions;
}

void test_chunks(const Standin& standin, const std::string& path, bool integrated) {
    const engine::EngineFile file(path);
    standin.set_device(1, 87, integrated ? 1 : 0, kGigabyte);
    {
        Policy policy(path, on_cuda());
        EXPECT(policy.info().execution_info.find("GPU 'Stand-in', sm_87") != std::string::npos);
        EXPECT(policy.info().weight_bytes == 192 && policy.info().instruction_set == "sm_87");
        EXPECT(throws_with<Error>("no instruction is set", [&] { infer(policy, SmallObservation().view()); }));
        policy.set_instruction(kTask);
        const std::uint64_t recorded = standin.calls("cuStreamBeginCapture_v2");
        const std::uint64_t copied = standin.calls("cuMemcpyHtoDAsync_v2");
        SmallObservation seen(12, 10);
        EXPECT(infer(policy, seen.view()) == expected(file, seen.view()));
        EXPECT(infer(policy, seen.view()) == expected(file, seen.view()));
        EXPECT(standin.calls("cuStreamBeginCapture_v2") == recorded + 1);
        // Frames and the rest; on an integrated GPU nothing is copied.
        EXPECT(standin.calls("cuMemcpyHtoDAsync_v2") == copied + (integrated ? 0 : 6));
        const SmallObservation smaller(3, 4);
        EXPECT(infer(policy, smaller.view()) == expected(file, smaller.view()));
        EXPECT(standin.calls("cuStreamBeginCapture_v2") == recorded + 1);
        const SmallObservation larger(20, 30);
        EXPECT(infer(policy, larger.view()) == expected(file, larger.view()));
        EXPECT(standin.calls("cuStreamBeginCapture_v2") == recorded + 2);
        EXPECT(infer(policy, seen.view()) == expected(file, seen.view()));
        EXPECT(policy.resize_plans_built() == 0);
    }
    EXPECT(standin.alive() == 0 && standin.leaked() == 0);
    standin.set_device(1, 87, 0, kGigabyte);
}

void test_strides(const std::string& path) {
    const engine::EngineFile file(path);
    Policy policy(path, on_cuda());
    policy.set_instruction(kTask);
    const SmallObservation dense(6, 5);
    // The same picture as planes, upside down: rows and channels come from any place.
    std::vector<std::uint8_t> planes(dense.pixels.size());
    for (std::size_t y = 0; y < 6; ++y)
        for (std::size_t x = 0; x < 5; ++x)
            for (std::size_t c = 0; c < 3; ++c) planes[(c * 6 + (5 - y)) * 5 + x] = dense.pixels[(y * 5 + x) * 3 + c];
    SmallObservation strided(6, 5);
    for (ImageView& image : strided.images) {
        image.pixels = planes.data() + 25;
        image.row_stride = -5;
        image.column_stride = 1;
        image.channel_stride = 30;
    }
    EXPECT(infer(policy, strided.view()) == expected(file, dense.view()));
    strided.images[0].channel_stride = 0;
    EXPECT(throws_with<Error>("in which pixels overlap", [&] { infer(policy, strided.view()); }));
}

// BGR, packed and in other layouts, gives what RGB gives of the swapped frame.
void test_color_order(const std::string& path) {
    const engine::EngineFile file(path);
    PolicyOptions options = on_cuda();
    options.color_order = "bgr";
    Policy policy(path, options);
    policy.set_instruction(kTask);
    SmallObservation rgb(6, 5);
    SmallObservation bgr(6, 5);
    for (std::size_t i = 0; i < rgb.pixels.size(); ++i) bgr.pixels[i] = rgb.pixels[i - i % 3 + 2 - i % 3];
    EXPECT(infer(policy, bgr.view()) == expected(file, rgb.view()));
    for (ImageView& image : bgr.images) {  // the RGB frame, its channels from last to first
        image.pixels = rgb.pixels.data() + 2;
        image.channel_stride = -1;
    }
    EXPECT(infer(policy, bgr.view()) == expected(file, rgb.view()));
}

void test_instructions(const Standin& standin, const std::string& path) {
    PolicyOptions options = on_cuda();
    options.instruction_cache_capacity = 3;
    Policy policy(path, options);
    const SmallObservation seen;
    policy.set_instruction(kTask);
    const std::vector<float> first = infer(policy, seen.view());
    policy.set_instruction("open the drawer");
    const std::vector<float> other = infer(policy, seen.view());
    EXPECT(first != other && policy.instruction_computations() == 2);
    policy.set_instruction(kTask);
    EXPECT(infer(policy, seen.view()) == first && policy.instruction_computations() == 2);
    const std::uint64_t recorded = standin.calls("cuStreamBeginCapture_v2");
    policy.set_instruction("open the drawer");
    EXPECT(infer(policy, seen.view()) == other && standin.calls("cuStreamBeginCapture_v2") == recorded);
    // A third and a fourth: what was used longest ago goes, what is in force stays.
    policy.set_instruction("close the drawer");
    policy.set_instruction("turn on the stove");
    EXPECT(policy.instruction_computations() == 4);
    policy.set_instruction("open the drawer");
    EXPECT(policy.instruction_computations() == 4 && infer(policy, seen.view()) == other);
    policy.set_instruction(kTask);
    EXPECT(policy.instruction_computations() == 5 && infer(policy, seen.view()) == first);
    EXPECT(throws_with<Error>("holds no word", [&] { policy.set_instruction("..."); }));
    EXPECT(policy.instruction() == kTask && infer(policy, seen.view()) == first);
}

void test_errors(const Standin& standin, const std::string& path) {
    const auto expect_error = [&](const std::string& why) {
        EXPECT(throws_with<Error>(why, [&] { Policy(path, on_cuda()); }));
        EXPECT(standin.alive() == 0 && standin.leaked() == 0);
    };
    standin.set_device(0, 87, 0, kGigabyte);
    expect_error("there is no GPU that this process may use");
    standin.set_device(2, 90, 0, kGigabyte);
    expect_error(
        "has machine code for sm_87, sm_110, but this machine's GPU is 'Stand-in' (sm_90), 'Stand-in' (sm_90)");
    standin.set_device(1, 87, 0, 1000);
    const std::uint64_t allocations = standin.calls("cuMemAlloc_v2");
    expect_error("needs 1 MiB of memory on GPU 'Stand-in' (weights 1 MiB, values 1 MiB), and 1 MiB are free");
    EXPECT(standin.calls("cuMemAlloc_v2") == allocations);
    standin.set_device(1, 110, 0, kGigabyte);
    {
        EXPECT(Policy(path, on_cuda()).info().instruction_set == "sm_110");
    }
    standin.set_device(1, 87, 0, kGigabyte);
    standin.fail("cuModuleLoadData", 2, 209);
    expect_error("loading the machine code of 'look' for sm_87 onto GPU 'Stand-in' (driver for CUDA 12.6; a newer");
    PolicyOptions precise = on_cuda();
    precise.precision = "bf16";
    EXPECT(throws_with<Error>("computes in f32", [&] { Policy(path, precise); }));
}

void test_auto(const Standin& standin, const std::string& path, const std::string& folder) {
    PolicyOptions options;
    options.device = "auto";
    EXPECT(Policy(path, options).info().execution_info.find("GPU 'Stand-in'") != std::string::npos);
    standin.set_device(1, 90, 0, kGigabyte);
    {
        const Policy policy(path, options);
        EXPECT(policy.info().execution_info.find("the CPU") != std::string::npos);
        EXPECT(policy.info().execution_info.find("has machine code for sm_87, sm_110") != std::string::npos);
    }
    standin.set_device(1, 87, 0, kGigabyte);
    const Policy plain(folder + "/small_images.lwam", options);
    EXPECT(plain.info().execution_info.find("has no machine code for a GPU") != std::string::npos);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const Standin standin(argv[2]);
    const std::string path = argv[1];
    standin.set_launcher(run_toy, nullptr);
    standin.set_device(1, 87, 0, kGigabyte);
    test_chunks(standin, path, false);
    test_chunks(standin, path, true);
    test_strides(path);
    test_color_order(path);
    test_instructions(standin, path);
    test_errors(standin, path);
    test_auto(standin, path, path.substr(0, path.rfind('/')));
    EXPECT(std::string(standin.misuse()).empty());
    std::fputs(standin.misuse(), stderr);
    return finish();
}
