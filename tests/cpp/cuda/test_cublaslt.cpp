// SPDX-License-Identifier: Apache-2.0
// cuBLASLt as a tactic, by a stand-in of it on the stand-in driver: what is requested of it, when it is chosen, and
// what if it is missing, another one, or fails.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "cublaslt.h"
#include "cuda/cublaslt.hpp"
#include "engine/engine_file.hpp"
#include "expect.hpp"
#include "toy_kernels.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

namespace fs = std::filesystem;

constexpr int kNotSupported = 15;
constexpr int kExecutionFailed = 13;
constexpr int kRepeats = 2;

// The functions of the stand-in of the library, which is loaded by its path and then found by its name.
struct Library {
    explicit Library(const char* path) : handle(::dlopen(path, RTLD_NOW | RTLD_GLOBAL)) {
        if (handle == nullptr) {
            std::fprintf(stderr, "%s\n", ::dlerror());
            std::exit(2);
        }
        look_up(fail, "standin_cublaslt_fail");
        look_up(calls, "standin_cublaslt_calls");
        look_up(alive, "standin_cublaslt_alive");
        look_up(set_version, "standin_cublaslt_set_version");
    }
    template <typename Pointer>
    void look_up(Pointer& function, const char* name) {
        function = reinterpret_cast<Pointer>(::dlsym(handle, name));
        if (function == nullptr) std::exit(2);
    }
    void* handle;
    decltype(&standin_cublaslt_fail) fail = nullptr;
    decltype(&standin_cublaslt_calls) calls = nullptr;
    decltype(&standin_cublaslt_alive) alive = nullptr;
    decltype(&standin_cublaslt_set_version) set_version = nullptr;
};

// Toy kernels; those of "project" may be slow by the GPU's clock.
struct Workshop {
    const Standin& standin;
    double seconds = 0.0;
    std::set<std::string> launched = {};

    static int run(void* user, const standin_launch* launch) {
        auto& on = *static_cast<Workshop*>(user);
        on.launched.insert(launch->entry);
        if (toy_name(launch) == "project") on.standin.advance_clock(on.seconds);
        return run_toy(nullptr, launch);
    }
};

// The engine in a folder of its own, and the tuning file beside it.
struct Bench {
    Bench(const std::string& source, const Standin& driver) : standin(driver), shop{driver} {
        fs::create_directories(folder);
        fs::copy_file(source, path, fs::copy_options::overwrite_existing);
        standin.set_device(1, 87, 0, kGigabyte);
        standin.set_launcher(Workshop::run, &shop);
    }
    ~Bench() {
        fs::remove_all(folder);
        standin.set_launcher(run_toy, nullptr);
        EXPECT(standin.alive() == 0 && standin.leaked() == 0 && std::string(standin.misuse()).empty());
    }
    // As `lightwam tune` writes it: tasks encode, look, mix, double, act, project.
    void choose(const Tuning& tuning, std::size_t project, const std::string& library) const {
        write_file(path + ".tuning.json",
                   R"({"format": "lightwam-tuning", "format_version": 1, "gpus": [{"gpu": "Stand-in", "target": )"
                   R"("sm_87", "driver": 12060, "plan": ")" +
                       tuning.plan + R"(", "tactics": [0, 0, 0, 0, 0, )" + std::to_string(project) + "]" +
                       (library.empty() ? "" : R"(, "library": ")" + library + R"(")") + "}]}");
    }
    const Standin& standin;
    Workshop shop;
    std::string folder = fs::temp_directory_path() / ("lightwam_cublaslt_" + std::to_string(::getpid()));
    std::string path = folder + "/policy.lwam";
};

Tuning tune(const std::string& path) {
    Policy policy(path, on_cuda());
    policy.set_instruction(kTask);
    return policy.tune(SmallObservation().view(), kRepeats, [](int, int) {});
}

bool close(const std::vector<float>& a, const std::vector<float>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(a[i] - b[i]) <= 1e-5F * (1.0F + std::fabs(b[i])))) return false;
    return a.size() == b.size();
}

// A number of few bits in a format of 16 bits, and back.
std::uint16_t to_bits(float value, engine::DType format) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    if (format == engine::DType::bf16) return static_cast<std::uint16_t>(bits >> 16);
    if (value == 0.0F) return 0;
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
}
double from_bits(std::uint16_t bits, engine::DType format) {
    if (format == engine::DType::bf16) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float value = 0.0F;
        std::memcpy(&value, &wide, sizeof(value));
        return value;
    }
    const int exponent = bits >> 10 & 31;
    const double magnitude =
        exponent == 0 ? std::ldexp(bits & 1023, -24) : std::ldexp(1024.0 + (bits & 1023), exponent - 25);
    return bits >> 15 != 0 ? -magnitude : magnitude;
}

// A matrix in the stand-in's memory, which is the CPU's.
struct Matrix {
    Matrix(const cuda::Driver& driver, std::int64_t count, engine::DType type, int seed)
        : format(type), values(static_cast<std::size_t>(count)), block(driver, values.size() * 4, "a matrix") {
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = static_cast<float>((static_cast<int>(i) * 37 + seed * 11) % 17 - 8) / 8.0F;
            if (format == engine::DType::f32)
                reinterpret_cast<float*>(block.address())[i] = values[i];
            else
                reinterpret_cast<std::uint16_t*>(block.address())[i] = to_bits(values[i], format);
        }
    }
    double stored(std::size_t i) const {
        if (format == engine::DType::f32) return reinterpret_cast<const float*>(block.address())[i];
        return from_bits(reinterpret_cast<const std::uint16_t*>(block.address())[i], format);
    }
    engine::DType format;
    std::vector<float> values;
    cuda::DeviceBlock block;
};

// One product against the sum in double, once on a plain stream and once recorded.
void test_product(const cuda::Driver& driver, const cuda::CublasLt& library, const engine::PlanLinear& linear) {
    const Matrix x(driver, linear.rows * linear.inputs, linear.x, 1);
    const Matrix weight(driver, linear.outputs * linear.inputs, linear.x, 2);
    const Matrix bias(driver, linear.outputs, engine::DType::f32, 3);
    const Matrix residual(driver, linear.rows * linear.outputs, linear.y, 4);
    const Matrix y(driver, linear.rows * linear.outputs, linear.y, 0);
    std::vector<cuda::DeviceAddress> addresses = {x.block.address(), weight.block.address()};
    if (linear.bias) addresses.push_back(bias.block.address());
    if (linear.residual) addresses.push_back(residual.block.address());
    addresses.push_back(y.block.address());
    const std::unique_ptr<cuda::Call> call = library.prepare(linear);
    EXPECT(call != nullptr);
    if (call == nullptr) return;
    const cuda::StreamOwner stream(driver);
    const auto expect_result = [&] {
        stream.synchronize("a product");
        const double step = linear.y == engine::DType::f32 ? 1e-6 : linear.y == engine::DType::f16 ? 5e-4 : 4e-3;
        for (std::int64_t r = 0; r < linear.rows; ++r)
            for (std::int64_t n = 0; n < linear.outputs; ++n) {
                double sum = linear.bias ? bias.values[static_cast<std::size_t>(n)] : 0.0;
                for (std::int64_t k = 0; k < linear.inputs; ++k)
                    sum += static_cast<double>(x.values[static_cast<std::size_t>(r * linear.inputs + k)]) *
                           weight.values[static_cast<std::size_t>(n * linear.inputs + k)];
                if (linear.gelu_tanh)
                    sum *= 0.5 * (1.0 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
                const auto at = static_cast<std::size_t>(r * linear.outputs + n);
                if (linear.residual) sum += residual.values[at];
                EXPECT(std::fabs(y.stored(at) - sum) <= step * std::fabs(sum) + 1e-6);
            }
        std::memset(reinterpret_cast<void*>(y.block.address()), 0xFF, y.block.bytes());
    };
    EXPECT(call->enqueue(stream.handle(), addresses) == cuda::Result::success);
    expect_result();
    const cuda::LaunchGraph graph(driver, stream.handle(), [&] { call->enqueue(stream.handle(), addresses); });
    for (int again = 0; again < 2; ++again) {
        graph.launch(stream.handle());
        expect_result();
    }
}

void test_matmul(const Standin& standin, const Library& stand_in, const std::string& source) {
    {
        const engine::EngineFile file(source);
        const cuda::Driver& driver = cuda::load_driver();
        const cuda::Gpu gpu = cuda::find_gpu(driver, *file.launch_plan(), file.graph());
        const cuda::PrimaryContext context(driver, gpu);
        const cuda::ContextScope scope(driver, context);
        std::string why;
        const std::unique_ptr<cuda::CublasLt> library = cuda::CublasLt::load(why);
        EXPECT(library != nullptr && why.empty() && library->version() == "cuBLASLt 13.1.0");
        if (library == nullptr) return;
        using engine::DType;
        for (const auto& [in, out] : {std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::f32},
                                      std::pair{DType::bf16, DType::bf16}, std::pair{DType::f16, DType::f16},
                                      std::pair{DType::f16, DType::f32}})
            for (const bool bias : {false, true})
                for (const bool gelu : {false, true})
                    for (const bool residual : {false, !gelu})
                        test_product(driver, *library, {5, 7, 9, in, out, gelu, bias, residual});
        // The library computes no such layer.
        stand_in.fail("cublasLtMatmulAlgoGetHeuristic", 1, kNotSupported);
        EXPECT(library->prepare({5, 7, 9, DType::f32, DType::f32, false, true, false}) == nullptr);
    }
    EXPECT(stand_in.alive() == 0 && standin.alive() == 0);
}

// Without the library: named, and nothing else changes.
void test_absent(const Standin& standin, const std::string& source) {
    Bench bench(source, standin);
    const Tuning tuning = tune(bench.path);
    EXPECT(tuning.library.empty() && tuning.why_no_library.find("there is no cuBLASLt") == 0);
    EXPECT(tuning.tasks.size() == 6 && tuning.tasks[5].tactics == std::vector<std::string>{"way 0"});
    bench.choose(tuning, 1, "cuBLASLt 13.1.0");
    bench.shop.launched.clear();
    Policy policy(bench.path, on_cuda());
    EXPECT(policy.info().warning.find("were timed with cuBLASLt 13.1.0, but there is no cuBLASLt") !=
           std::string::npos);
    policy.set_instruction(kTask);
    infer(policy, SmallObservation().view());
    EXPECT(bench.shop.launched.contains("project_kernel"));
}

void test_chosen(const Standin& standin, const Library& library, const std::string& source) {
    Bench bench(source, standin);
    const SmallObservation seen;
    std::vector<float> actions;
    {
        Policy policy(bench.path, on_cuda());
        policy.set_instruction(kTask);
        actions = infer(policy, seen.view());
        EXPECT(library.calls("cublasLtCreate") == library.calls("cublasLtDestroy"));
    }
    bench.shop.seconds = 100;
    const Tuning tuning = tune(bench.path);
    EXPECT(tuning.library == "cuBLASLt 13.1.0" && tuning.why_no_library.empty() && tuning.cosine > 0.999999);
    EXPECT((tuning.tasks[5].tactics == std::vector<std::string>{"way 0", "cuBLASLt 13.1.0"}));
    EXPECT(tuning.tasks[5].chosen == 1 && tuning.tasks[0].tactics.size() == 1);
    bench.choose(tuning, 1, tuning.library);
    bench.shop.launched.clear();
    {
        Policy policy(bench.path, on_cuda());
        EXPECT(policy.info().warning.empty());
        EXPECT(policy.info().execution_info.find("tactics tuned on this GPU, with cuBLASLt 13.1.0") !=
               std::string::npos);
        policy.set_instruction(kTask);
        // Once to load its code, once recorded, and not again.
        const std::uint64_t calls = library.calls("cublasLtMatmul") + 2;
        EXPECT(close(infer(policy, seen.view()), actions) && library.calls("cublasLtMatmul") == calls);
        EXPECT(close(infer(policy, seen.view()), actions) && library.calls("cublasLtMatmul") == calls);
        Timings timings;
        std::vector<float> by_stage(kActions);
        policy.infer_by_stage(seen.view(), by_stage.data(), by_stage.size(), timings);
        EXPECT(close(by_stage, actions));
        EXPECT(!bench.shop.launched.contains("project_kernel") && bench.shop.launched.contains("look_kernel"));
        // Its own library is timed again.
        EXPECT(policy.tune(seen.view(), kRepeats, [](int, int) {}).tasks[5].chosen == 1);
    }
    EXPECT(library.alive() == 0);
}

// What a policy says that cannot have the library of its tuning file; the default tactic runs.
void test_unfit(const Standin& standin, const Library& library, const std::string& source) {
    Bench bench(source, standin);
    const Tuning tuning = tune(bench.path);
    const auto expect_default = [&](const std::string& warning) {
        bench.shop.launched.clear();
        Policy policy(bench.path, on_cuda());
        if (policy.info().warning.find(warning) == std::string::npos)
            std::fprintf(stderr, "warning: %s\n", policy.info().warning.c_str());
        EXPECT(policy.info().warning.find(warning) != std::string::npos);
        policy.set_instruction(kTask);
        infer(policy, SmallObservation().view());
        EXPECT(bench.shop.launched.contains("project_kernel") && library.alive() == 0);
    };
    bench.choose(tuning, 1, "");
    expect_default("tactic 1 of task 'project'; expected one of 0 to 0");
    bench.choose(tuning, 2, "cuBLASLt 13.1.0");
    expect_default("tactic 2 of task 'project'; expected one of 0 to 1");
    bench.choose(tuning, 1, "cuBLASLt 13.1.0");
    library.set_version(130'201);
    expect_default(
        "tactics were timed with cuBLASLt 13.1.0, but this is cuBLASLt 13.2.1: default tactics run in its place");
    library.set_version(130'100);
    library.fail("cublasLtMatmulAlgoGetHeuristic", 1, kNotSupported);
    expect_default("but it does not compute 'project'");
    library.fail("cublasLtCreate", 1, kNotSupported);
    expect_default("libcublasLt.so.13 does not start: CUBLAS_STATUS_NOT_SUPPORTED");
}

// Every call of every function of the library fails once, while a tuned policy is made and runs, and while one is
// tuned: an error of a device, or the default tactic; nothing leaks, and the policy goes on.
void test_faults(const Standin& standin, const Library& library, const std::string& source) {
    Bench bench(source, standin);
    const SmallObservation seen;
    bench.choose(tune(bench.path), 1, "cuBLASLt 13.1.0");
    const auto work = [&] {
        Policy policy(bench.path, on_cuda());
        policy.set_instruction(kTask);
        try {
            infer(policy, seen.view());
            policy.tune(seen.view(), kRepeats, [](int, int) {});
        } catch (const Error&) {
            EXPECT(!infer(policy, seen.view()).empty());
            throw;
        }
    };
    for (const char* function :
         {"cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate",
          "cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceSetAttribute", "cublasLtMatmulAlgoGetHeuristic",
          "cublasLtMatmul"}) {
        const std::uint64_t before = library.calls(function);
        work();
        const std::uint64_t calls = library.calls(function) - before;
        EXPECT(calls > 0);
        for (std::uint64_t nth = 1; nth <= calls; ++nth) {
            library.fail(function, static_cast<int>(nth), kExecutionFailed);
            try {
                work();
                EXPECT(std::string_view(function) != "cublasLtMatmul");
            } catch (const Error& error) {
                EXPECT(error.kind() == ErrorKind::device);
            }
            library.fail(function, 0, 0);
            EXPECT(library.alive() == 0 && standin.alive() == 0 && standin.leaked() == 0);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    const Standin standin(argv[2]);
    const std::string source = argv[1];
    // Only where the machine has no library of its own.
    if (::dlopen("libcublasLt.so.13", RTLD_LAZY) == nullptr && ::dlopen("libcublasLt.so.12", RTLD_LAZY) == nullptr)
        test_absent(standin, source);
    const Library library(argv[3]);
    standin.set_device(1, 87, 0, kGigabyte);
    test_matmul(standin, library, source);
    test_chosen(standin, library, source);
    test_unfit(standin, library, source);
    test_faults(standin, library, source);
    std::fputs(standin.misuse(), stderr);
    return finish();
}
