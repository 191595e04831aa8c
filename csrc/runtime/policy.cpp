// SPDX-License-Identifier: Apache-2.0
#include "lightwam/policy.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>

#include "engine/engine_file.hpp"
#include "engine/error_reporter.hpp"
#include "runtime/backend.hpp"
#include "runtime/familiarity.hpp"
#include "runtime/process.hpp"
#include "runtime/text.hpp"

namespace lightwam {
namespace {

// Bytes of a frame are counted in 32 bits on a GPU (kernels/preprocess_images.py).
constexpr std::int64_t kMaxImageSize = 1 << 14;
// Sums of strides times sizes stay within 64 bits.
constexpr std::int64_t kMaxStride = std::int64_t{1} << 40;
constexpr std::int64_t kChannels = 3;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void check_device(const std::string& device) {
    if (device == "cpu" || device == "cuda" || device == "auto") return;
    throw Error(ErrorKind::device, "device '" + device + "' is unknown; expected 'cpu', 'cuda' or 'auto'");
}

void check_precision(const std::string& requested, const engine::Graph& graph) {
    const std::string own = engine::precision_name(graph.precision);
    if (requested == "auto" || requested == own) return;
    if (requested != "f32" && requested != "bf16" && requested != "f16" && requested != "int8" && requested != "fp8")
        throw Error(ErrorKind::precision,
                    "precision '" + requested + "' is unknown; expected 'auto', 'f32', 'bf16', 'f16', 'int8' or 'fp8'");
    throw Error(ErrorKind::precision, "precision '" + requested + "' was requested, but engine '" + graph.name +
                                          "' computes in " + own +
                                          (requested == "int8" || requested == "fp8"
                                               ? "; make one with 'lightwam quantize --format " + requested + "'"
                                               : "; export it again with --precision " + requested) +
                                          ", or pass precision='auto'");
}

// The backend of a device, and in `why` the reason where 'auto' chose it.
std::unique_ptr<runtime::Backend> make_backend(const engine::EngineFile& file, const PolicyOptions& options,
                                               std::string& why) {
    if (options.device == "cpu") return runtime::make_cpu_backend(file, options);
    if (options.device == "cuda") return runtime::make_cuda_backend(file, options);
    try {
        std::unique_ptr<runtime::Backend> backend = runtime::make_cuda_backend(file, options);
        why = " (device 'auto': it has machine code for this GPU)";
        return backend;
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::device) throw;
        why = std::string(" (device 'auto': ") + error.what() + ")";
    }
    return runtime::make_cpu_backend(file, options);
}

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "lightwam is compiled without -ffast-math: with it, no NaN would be found"
#endif

// First element that is NaN or infinite; `count` when all are finite.
std::size_t first_non_finite(const float* values, std::size_t count) {
    return static_cast<std::size_t>(
        std::find_if(values, values + count, [](float value) { return !std::isfinite(value); }) - values);
}

[[noreturn]] void fail(const std::string& why) { throw Error(ErrorKind::observation, why); }

void expect_finite(const std::string& name, const float* values, std::size_t count) {
    if (const std::size_t at = first_non_finite(values, count); at < count)
        fail(name + "[" + std::to_string(at) + "] is " + std::to_string(values[at]) + "; expected a finite number");
}

std::string names(const std::vector<CameraInfo>& cameras) {
    std::string text;
    for (const CameraInfo& camera : cameras) text += (text.empty() ? "'" : ", '") + camera.name + "'";
    return text.empty() ? "none" : text;
}

bool is_bgr(const std::string& color_order) {
    if (color_order != "rgb" && color_order != "bgr")
        throw Error(ErrorKind::observation, "color_order is '" + color_order + "'; expected 'rgb' or 'bgr'");
    return color_order == "bgr";
}

// True when every byte of the image has a place of its own: each stride steps over all that smaller strides reach.
bool strides_fit(const ImageView& image) {
    struct Direction {
        std::int64_t stride, count;
    };
    Direction directions[] = {
        {image.row_stride, image.height}, {image.column_stride, image.width}, {image.channel_stride, kChannels}};
    for (Direction& direction : directions) {
        if (direction.count == 1) direction.stride = 0;  // never stepped over
        if (direction.stride < -kMaxStride || direction.stride > kMaxStride) return false;
        direction.stride = std::abs(direction.stride);
    }
    std::ranges::sort(directions, {}, &Direction::stride);
    std::int64_t reached = 1;
    for (const Direction& direction : directions) {
        if (direction.count > 1 && direction.stride < reached) return false;
        reached += direction.stride * (direction.count - 1);
    }
    return true;
}

void check_image(const ImageView& image) {
    const auto subject = [&] { return "image of camera '" + std::string(image.camera) + "'"; };
    if (image.height < 1 || image.width < 1 || image.height > kMaxImageSize || image.width > kMaxImageSize)
        fail(subject() + " is " + std::to_string(image.height) + " x " + std::to_string(image.width) +
             " pixels; expected 1 to 16384 in both directions");
    if (image.pixels == nullptr) fail(subject() + " has no pixels");
    if (!strides_fit(image))
        fail(subject() + " has the strides " + std::to_string(image.row_stride) + ", " +
             std::to_string(image.column_stride) + ", " + std::to_string(image.channel_stride) +
             " bytes (row, column, channel), in which pixels overlap; packed they are " +
             std::to_string(kChannels * image.width) + ", 3, 1");
}

// The cameras of an engine: checks what an observation brings and puts it into the engine's order.
class Cameras {
  public:
    // `bgr`: the order of the channels in every image.
    Cameras(const std::vector<CameraInfo>& cameras, bool bgr)
        : cameras_(cameras), images_(cameras.size()), swapped_(bgr ? cameras.size() : 0) {}

    // The observation's images, one for each camera in the engine's order, red first. Throws Error (observation) when a
    // camera is missing, unknown, there twice, without pixels, of a size out of range or with strides in which pixels
    // overlap. Allocates nothing.
    const ImageView* const* accept(const Observation& observation) {
        std::ranges::fill(images_, nullptr);
        for (std::size_t at = 0; at < observation.image_count; ++at) {
            const ImageView& image = observation.images[at];
            const auto camera = std::ranges::find(cameras_, image.camera, &CameraInfo::name);
            if (camera == cameras_.end())
                fail("camera '" + std::string(image.camera) + "' is not one of this engine; expected " +
                     names(cameras_));
            const ImageView*& place = images_[static_cast<std::size_t>(camera - cameras_.begin())];
            if (place != nullptr) fail("camera '" + camera->name + "' is there twice");
            check_image(image);
            place = &image;
        }
        for (std::size_t i = 0; i < cameras_.size(); ++i)
            if (images_[i] == nullptr)
                fail("camera '" + cameras_[i].name + "' is missing; expected " + names(cameras_));
        for (std::size_t i = 0; i < swapped_.size(); ++i) {
            swapped_[i] = *images_[i];
            swapped_[i].pixels += (kChannels - 1) * swapped_[i].channel_stride;
            swapped_[i].channel_stride = -swapped_[i].channel_stride;
            images_[i] = &swapped_[i];
        }
        return images_.data();
    }

  private:
    const std::vector<CameraInfo>& cameras_;
    std::vector<const ImageView*> images_;
    std::vector<ImageView> swapped_;  // of images whose first channel is blue
};

}  // namespace

struct Policy::Implementation {
    Implementation(const std::string& path, const PolicyOptions& options);

    void describe(const std::string& why);
    void set_instruction(std::string_view text);
    void infer(const Observation& observation, float* actions, std::size_t count, Timings* timings, bool by_stage);
    Tuning tune(const Observation& observation, int repeats, const TuningProgress& progress);
    void expect_instruction() const;
    runtime::ActInputs accept(const Observation& observation);

    // The right to use the backend. Throws Error (device) in another process than the one that opened the policy.
    std::unique_lock<std::mutex> enter();
    void expect_own_process() const;
    bool inherited() const noexcept { return forks_ != runtime::forks(); }

    const std::uint32_t forks_ = runtime::forks();
    engine::Graph graph_;
    PolicyInfo info_;
    std::mutex mutex_;
    std::unique_ptr<runtime::Backend> backend_;
    std::optional<Cameras> cameras_;
    std::optional<runtime::Familiarity> familiarity_;
    runtime::InstructionCleaner clean_;
    std::vector<std::string> known_;  // instructions of the engine, cleaned
    bool needs_instruction_ = false;
    std::mutex text_mutex_;  // so that reading the instruction never waits for a chunk; taken after mutex_
    std::string instruction_;
    std::atomic<std::uint64_t> instruction_computations_{0};
};

Policy::Implementation::Implementation(const std::string& path, const PolicyOptions& options) {
    check_device(options.device);
    const engine::EngineFile file(path, options.while_opening);
    graph_ = file.graph();
    check_precision(options.precision, graph_);
    cameras_.emplace(graph_.policy.cameras, is_bgr(options.color_order));
    familiarity_.emplace(graph_, options);
    known_ = runtime::clean_known(graph_, clean_);
    std::string why;
    backend_ = make_backend(file, options, why);
    info_.metadata_json = file.document();
    needs_instruction_ = std::ranges::any_of(
        graph_.act.values, [](const engine::Value& value) { return value.storage == engine::Storage::instruction; });
    describe(why);
}

// Of the opening process a child has the memory only, as it was at the moment of the fork: not the threads, not the
// GPU, and the lock for ever if another thread held it.
void Policy::Implementation::expect_own_process() const {
    if (inherited())
        throw Error(ErrorKind::device, "this policy of engine '" + info_.name +
                                           "' was opened before this process was forked, and works in the process that "
                                           "opened it: open another one here, or start processes with "
                                           "multiprocessing's 'spawn' method");
}

std::unique_lock<std::mutex> Policy::Implementation::enter() {
    expect_own_process();
    return std::unique_lock(mutex_);
}

void Policy::Implementation::describe(const std::string& why) {
    const engine::PolicyDescription& policy = graph_.policy;
    info_.name = graph_.name;
    info_.precision = engine::precision_name(graph_.precision);
    static_cast<PolicySizes&>(info_) = policy;
    info_.has_text_encoder = policy.text_encoder.present;
    for (const engine::KnownInstruction& known : policy.instructions) info_.instructions.push_back(known.text);
    backend_->describe(info_);
    info_.execution_info = engine::one_line("engine '" + info_.name + "' runs on " + backend_->device_info() + why +
                                            ", " + backend_->products(graph_));
    info_.warning = engine::one_line(info_.warning);
}

void Policy::Implementation::set_instruction(std::string_view text) {
    std::string instruction(text);
    const std::string cleaned = clean_(text);
    if (!backend_->recall_instruction(cleaned)) {
        const runtime::TextSource source{graph_, known_, clean_,
                                         [&](std::size_t tensor) { return backend_->text_constant(tensor); }};
        const std::int32_t rows = runtime::encode_instruction(source, cleaned, backend_->context());
        familiarity_->check_words(runtime::unseen_words(source, cleaned), cleaned);
        backend_->compute_instruction(cleaned, rows);
        instruction_computations_.fetch_add(1, std::memory_order_relaxed);
    }
    const std::lock_guard<std::mutex> lock(text_mutex_);
    instruction_.swap(instruction);
}

// Checks everything before anything of the last call is overwritten.
runtime::ActInputs Policy::Implementation::accept(const Observation& observation) {
    const std::size_t width = static_cast<std::size_t>(info_.state_width);
    if (observation.state == nullptr) fail("the state is missing; expected " + std::to_string(width) + " numbers");
    if (observation.state_width != width)
        fail("the state has " + std::to_string(observation.state_width) + " numbers; expected " +
             std::to_string(width));
    expect_finite("state", observation.state, width);
    runtime::ActInputs inputs{observation.state, nullptr, nullptr};
    if (info_.starts_at_images) {
        if (observation.latents != nullptr) fail("latents were given, but this engine starts at images");
        inputs.images = cameras_->accept(observation);
    } else {
        const std::size_t count = static_cast<std::size_t>(info_.latent_count());
        if (observation.image_count > 0) fail("images were given, but this engine starts at latents");
        if (observation.latents == nullptr || observation.latent_count != count)
            fail("the latents have " + std::to_string(observation.latents == nullptr ? 0 : observation.latent_count) +
                 " numbers; expected " + std::to_string(count));
        expect_finite("latents", observation.latents, count);
        inputs.latents = observation.latents;
    }
    familiarity_->check_state(observation.state);
    return inputs;
}

void Policy::Implementation::expect_instruction() const {
    if (needs_instruction_ && instruction_.empty())
        throw Error(ErrorKind::instruction, "no instruction is set; call set_instruction first (engine '" + info_.name +
                                                "' knows " + runtime::known_instructions(graph_) +
                                                (info_.has_text_encoder ? ", and takes any other text)" : ")"));
}

void Policy::Implementation::infer(const Observation& observation, float* actions, std::size_t count, Timings* timings,
                                   bool by_stage) {
    const Clock::time_point begin = Clock::now();
    const std::size_t expected = static_cast<std::size_t>(info_.horizon * info_.action_width);
    if (actions == nullptr || count != expected)
        throw Error(ErrorKind::internal, "room for " + std::to_string(actions == nullptr ? 0 : count) +
                                             " actions was given; expected " + std::to_string(expected));
    expect_instruction();
    const runtime::ActInputs inputs = accept(observation);
    if (timings != nullptr) *timings = Timings{};
    const float* const computed = by_stage ? backend_->act_by_stage(inputs, *timings) : backend_->act(inputs, timings);
    if (const std::size_t at = first_non_finite(computed, expected); at < expected)
        throw Error(ErrorKind::engine, "engine '" + info_.name + "' computed the action [" +
                                           std::to_string(at / static_cast<std::size_t>(info_.action_width)) + ", " +
                                           std::to_string(at % static_cast<std::size_t>(info_.action_width)) + "] as " +
                                           std::to_string(computed[at]) +
                                           ", so no action was returned; check the state's units or export in f32");
    std::memcpy(actions, computed, expected * sizeof(float));
    if (timings != nullptr) timings->total = seconds_since(begin);
}

Tuning Policy::Implementation::tune(const Observation& observation, int repeats, const TuningProgress& progress) {
    if (repeats < 1)
        throw Error(ErrorKind::internal,
                    "tuning requests " + std::to_string(repeats) + " repeats; expected at least 1");
    expect_instruction();
    return backend_->tune(accept(observation), repeats, [&](int done, int total) {
        progress(done, total);
        expect_own_process();  // what was called may have forked
    });
}

Policy::Policy(const std::string& path, const PolicyOptions& options) {
    try {
        implementation_.reset(new Implementation(path, options));
    } catch (const std::bad_alloc&) {
        throw Error(ErrorKind::engine, "engine file '" + path + "': not enough memory to load it; free some");
    }
}

// In the child of a fork nothing of it is touched: its threads are not there to be joined, and what another thread was
// changing is half changed.
void Policy::Deleter::operator()(Implementation* implementation) const noexcept {
    if (!implementation->inherited()) delete implementation;
}

Policy::~Policy() = default;
Policy::Policy(Policy&&) noexcept = default;
Policy& Policy::operator=(Policy&&) noexcept = default;

void Policy::set_instruction(std::string_view text) {
    const auto lock = implementation_->enter();
    implementation_->set_instruction(text);
}

void Policy::infer(const Observation& observation, float* actions, std::size_t action_count, Timings* timings) {
    const auto lock = implementation_->enter();
    implementation_->infer(observation, actions, action_count, timings, false);
}

void Policy::infer_by_stage(const Observation& observation, float* actions, std::size_t action_count,
                            Timings& timings) {
    const auto lock = implementation_->enter();
    implementation_->infer(observation, actions, action_count, &timings, true);
}

Tuning Policy::tune(const Observation& observation, int repeats, const TuningProgress& progress) {
    const auto lock = implementation_->enter();
    return implementation_->tune(observation, repeats, progress);
}

const PolicyInfo& Policy::info() const noexcept { return implementation_->info_; }
std::string Policy::instruction() const {
    implementation_->expect_own_process();  // in a forked child the lock may be taken for ever
    const std::lock_guard<std::mutex> lock(implementation_->text_mutex_);
    return implementation_->instruction_;
}
std::uint64_t Policy::instruction_computations() const noexcept {
    return implementation_->instruction_computations_.load(std::memory_order_relaxed);
}
std::uint64_t Policy::resize_plans_built() const noexcept { return implementation_->backend_->resize_plans_built(); }

}  // namespace lightwam
