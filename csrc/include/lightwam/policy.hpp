// SPDX-License-Identifier: Apache-2.0
// A policy: one engine file, run on this machine's CPU or GPU. No third-party header is needed to use it.
//
//   lightwam::Policy policy("nano.lwam");
//   policy.set_instruction("pick up the alphabet soup and place it in the basket");
//   std::vector<float> actions(policy.info().horizon * policy.info().action_width);
//   policy.infer(observation, actions.data(), actions.size());
#pragma once

#if __cplusplus < 201703L
#error "lightwam/policy.hpp needs C++17 or newer (-std=c++17); lightwam/policy.h works in C99 and any C++"
#endif

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__GNUC__)
#define LIGHTWAM_API __attribute__((visibility("default")))
#else
#define LIGHTWAM_API
#endif

namespace lightwam {

// What went wrong. The numbers are those of lightwam_status in policy.h.
enum class ErrorKind : int { engine = 1, observation = 2, instruction = 3, precision = 4, device = 5, internal = 6 };

// Every error this library raises on purpose: one line that names the thing, the value and the remedy. Control
// characters of the message are written out.
class LIGHTWAM_API Error : public std::runtime_error {
  public:
    Error(ErrorKind kind, const std::string& message);
    ErrorKind kind() const noexcept { return kind_; }

  private:
    ErrorKind kind_;
};

// Receives one line; may throw, which ends the call that warns.
using WarningHandler = std::function<void(const std::string& message)>;

struct PolicyOptions {
    std::string device = "cpu";                   // "cpu", "cuda", or "auto": a GPU if it can, else the CPU
    int threads = 0;                              // on the CPU; 0: one per CPU this process may use
    std::string precision = "auto";               // "auto" (the engine's), "f32", "bf16", "f16", "int8" or "fp8"
    std::string instruction_set = "auto";         // "auto" (the best) or one of PolicyInfo::instruction_set
    std::size_t instruction_cache_capacity = 32;  // instructions kept; the least recently used goes first
    std::function<void()> while_opening;          // called now and then by the constructor; what it throws ends that
    std::string color_order = "rgb";              // of all frames: "rgb", or "bgr" (OpenCV, many cameras)
    // A state far outside of the range seen in training, or words that the text encoder never saw: "warn" (once each),
    // "error" (observation, instruction) or "ignore". Engines that do not tell ranges or words are not checked.
    std::string unfamiliar = "warn";
    WarningHandler on_warning;  // empty: a line on standard error
};

// One camera's frame: unsigned bytes, 3 channels, red first (or as PolicyOptions::color_order says), any size. Strides
// are in bytes and may be negative; no two bytes of the frame may be the same one, so none of them is zero.
struct ImageView {
    std::string_view camera;
    const std::uint8_t* pixels = nullptr;
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t row_stride = 0;
    std::int64_t column_stride = 3;
    std::int64_t channel_stride = 1;
};

// What the robot sees. An engine that starts at images reads `images`, one that starts at latents reads `latents`.
struct Observation {
    const ImageView* images = nullptr;
    std::size_t image_count = 0;
    const float* latents = nullptr;  // [C, h, w], contiguous
    std::size_t latent_count = 0;    // C * h * w
    const float* state = nullptr;    // [P], robot units
    std::size_t state_width = 0;     // P
};

enum class Stage : int { preprocess = 0, vae = 1, backbone = 2, expert = 3, postprocess = 4, text = 5 };
inline constexpr int kStageCount = 6;
LIGHTWAM_API const char* stage_name(Stage stage) noexcept;

// Seconds of one chunk: wall time on the CPU; on a GPU the stages by its own clock. `present` says which stages
// were timed: infer times none on a GPU, where a chunk is one graph, infer_by_stage does.
struct Timings {
    double seconds[kStageCount] = {};
    bool present[kStageCount] = {};
    double total = 0.0;
};

// The tactics of a task of a GPU's launch plan (launch-plan.md): what they are like, and how long they take.
struct TaskTiming {
    std::string label;
    std::string kernel;
    std::size_t launches = 0;  // of a chunk or an instruction
    std::vector<std::string> tactics;
    std::vector<double> seconds;  // by tactic, of all launches
    std::size_t chosen = 0;
};

// What a GPU says about the tactics of an engine. The first four members: what it is true for.
struct Tuning {
    std::string gpu;
    std::string target;  // "sm_87"
    int driver = 0;      // the CUDA version that it supports: 12060 for 12.6
    std::string plan;    // digest of the launch plan and its machine code
    std::vector<TaskTiming> tasks;
    double default_seconds = 0.0;  // the launches of a chunk as one graph, default tactics
    double tuned_seconds = 0.0;    // with the chosen ones; never more
    double cosine = 0.0;           // of the actions that both compute
    std::string library;           // "cuBLASLt 13.1.0" where its tactics were timed too
    std::string why_no_library;    // one line where the plan could use it, and it is not there
};
using TuningProgress = std::function<void(int done, int total)>;

struct CameraInfo {
    std::string name;
    std::int64_t top = 0, left = 0, height = 0, width = 0;  // its rectangle of the canvas
    bool rotate_180 = false;
};

// One number of the state or of an action, as the engine describes it.
struct DimensionInfo {
    std::string name;
    std::string unit;        // "rad", "m", ...; "1" for a plain number
    bool has_range = false;  // the engine tells the smallest and the largest value seen in training
    double minimum = 0.0;
    double maximum = 0.0;
};

// What a policy reads and gives.
struct PolicySizes {
    bool starts_at_images = false;  // false: at latents
    std::vector<CameraInfo> cameras;
    std::int64_t latent_shape[3] = {};  // channels, height, width
    std::int64_t latent_count() const { return latent_shape[0] * latent_shape[1] * latent_shape[2]; }
    std::int64_t state_width = 0;
    std::int64_t action_width = 0;
    std::int64_t horizon = 0;
    std::int64_t replan_steps = 0;      // actions to execute before the next chunk
    std::vector<DimensionInfo> state;   // empty where the engine does not describe them
    std::vector<DimensionInfo> action;  // likewise
};

struct PolicyInfo : PolicySizes {
    std::string name;
    std::string precision;  // "f32", "bf16", "f16", "int8" or "fp8"
    bool has_text_encoder = false;
    std::vector<std::string> instructions;  // those the engine knows
    std::string metadata_json;              // the engine's whole JSON document
    std::string device;                     // "cpu" or "cuda"
    int threads = 0;                        // 0 on a GPU
    // "portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni" or "avx512_bf16"; on a GPU "sm_87" or another target.
    std::string instruction_set;
    std::string execution_info;  // one line: device, instruction set, threads, precision, and why
    std::string warning;         // one line when something runs slower than it might; else empty
    std::size_t arena_bytes = 0;
    std::size_t weight_bytes = 0;  // packed weights held in memory, or weights on the GPU
};

// A policy works in the process that opened it. In the child of a fork each call that computes throws Error (device),
// info() is still there, and destroying the policy gives nothing back; a child opens policies of its own.
class LIGHTWAM_API Policy {
  public:
    // Maps and verifies the file, packs its weights. Throws Error (engine, device, precision).
    explicit Policy(const std::string& path, const PolicyOptions& options = {});
    ~Policy();
    Policy(Policy&&) noexcept;
    Policy& operator=(Policy&&) noexcept;

    // Chooses what the robot is to do, in UTF-8. White space of any kind is one space, invisible characters are nothing
    // (engine-format.md). Known instructions in the cache cost nothing. Throws Error (instruction); the instruction set
    // before then stays.
    void set_instruction(std::string_view text);

    // One action chunk: writes horizon * action_width floats in robot units, row by row. Allocates nothing once every
    // camera has been seen at its size. Throws Error (observation, instruction, internal); the policy stays usable.
    // Calls from several threads are served one after the other.
    void infer(const Observation& observation, float* actions, std::size_t action_count, Timings* timings = nullptr);

    // The same actions, and the times of stages also on a GPU. There it is a graph of its own that reads the clock
    // between stages, so that infer need not, and that runs them one after the other.
    void infer_by_stage(const Observation& observation, float* actions, std::size_t action_count, Timings& timings);

    // Times every tactic of every task on this policy's GPU, `repeats` times each; the instruction in force stays. The
    // policy goes on with the tactics it has. `progress` may throw to end it. Throws Error (device; observation and
    // instruction as infer).
    Tuning tune(const Observation& observation, int repeats, const TuningProgress& progress);

    const PolicyInfo& info() const noexcept;
    std::string instruction() const;                          // the one in force; empty before the first
    std::uint64_t instruction_computations() const noexcept;  // how often the instruction program ran
    std::uint64_t resize_plans_built() const noexcept;        // how often a camera's resize plan was built

  private:
    struct Implementation;
    struct Deleter {
        void operator()(Implementation* implementation) const noexcept;
    };
    std::unique_ptr<Implementation, Deleter> implementation_;
};

}  // namespace lightwam
