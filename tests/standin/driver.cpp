// SPDX-License-Identifier: Apache-2.0
// The driver's functions, those that csrc/cuda/driver.cpp looks up. They check what a driver checks.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "state.hpp"

namespace standin {
namespace {

using lightwam::cuda::DeviceAttribute;

thread_local int current_depth = 0;

// Counts a call. A fault that the test asked for, or the loss of the device, ends it.
Result begin(const char* function) {
    State& on = state();
    const std::lock_guard<std::mutex> lock(on.mutex);
    ++on.calls[function];
    const auto fault = on.faults.find(function);
    if (fault != on.faults.end() && --fault->second.countdown == 0) {
        const Result result = fault->second.result;
        on.faults.erase(fault);
        if (lightwam::cuda::loses_device(result) && on.retained > 0) on.lost = result;
        return result;
    }
    return on.lost;
}

// The same for what needs a current context.
Result begin_current(const char* function) {
    if (const Result result = begin(function); result != Result::success) return result;
    return current_depth > 0 && state().retained > 0 ? Result::success : Result::invalid_context;
}

// Memory may not be allocated or freed, nor a stream waited for, while one records.
Result begin_outside_of_recordings(const char* function) {
    if (const Result result = begin_current(function); result != Result::success) return result;
    for (auto& [stream, owner] : state().streams) {
        if (stream->recording == nullptr) continue;
        stream->spoiled = true;
        return Result::stream_capture_unsupported;
    }
    return Result::success;
}

void put(StreamObject* stream, Work work) {
    if (stream->recording != nullptr)
        stream->recording->work.push_back(std::move(work));
    else
        stream->waiting.push_back(std::move(work));
}

template <typename Objects, typename Handle>
auto* known(Objects& objects, Handle handle) {
    const auto found = objects.find(reinterpret_cast<typename Objects::key_type>(handle));
    return found == objects.end() ? nullptr : found->first;
}

template <typename Objects, typename Handle>
Result destroy(Objects& objects, Handle handle, const char* what) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    const auto found = objects.find(reinterpret_cast<typename Objects::key_type>(handle));
    if (found == objects.end()) {
        state().complain(std::string(what) + " was destroyed that does not live");
        return Result::invalid_value;
    }
    objects.erase(found);
    return Result::success;
}

template <typename Object>
Object* keep(std::map<Object*, std::unique_ptr<Object>>& objects, std::unique_ptr<Object> object) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    Object* const handle = object.get();
    objects.emplace(handle, std::move(object));
    return handle;
}

Result lost_with(const std::string& why) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    state().complain(why);
    return static_cast<Result>(700);  // illegal address
}

Result copy(void* destination, const void* source, std::size_t bytes, std::uint64_t device, const void* host) {
    if (state().find(device, bytes) == nullptr) return lost_with("a copy ran past memory of the device");
    if (state().find(reinterpret_cast<std::uint64_t>(host), bytes) == nullptr)
        return lost_with("a copy ran on memory of the host that is gone");
    std::memcpy(destination, source, bytes);
    return Result::success;
}

Work read_clock(const EventObject& event) {
    return [seconds = event.seconds] {
        const auto now = std::chrono::steady_clock::now().time_since_epoch();
        *seconds = std::chrono::duration<double>(now).count() + state().advanced;
        return Result::success;
    };
}

bool page_locked(const void* host, std::size_t bytes) {
    const Allocation* const found = state().find(reinterpret_cast<std::uint64_t>(host), bytes);
    if (found != nullptr && found->host) return true;
    state().complain("a copy without waiting used memory that is not page-locked");
    return false;
}

// Length of an ELF file, from its own tables: the driver is not told it.
std::size_t elf_bytes(const unsigned char* image) {
    const auto number = [&](std::size_t offset, std::size_t size) {
        std::uint64_t value = 0;
        std::memcpy(&value, image + offset, size);
        return value;
    };
    std::uint64_t end =
        std::max(number(32, 8) + number(54, 2) * number(56, 2), number(40, 8) + number(58, 2) * number(60, 2));
    for (std::uint64_t i = 0; i < number(60, 2); ++i) {
        const std::uint64_t header = number(40, 8) + i * number(58, 2);
        constexpr std::uint64_t kNoBits = 8;
        if (number(header + 4, 4) != kNoBits) end = std::max(end, number(header + 24, 8) + number(header + 32, 8));
    }
    return static_cast<std::size_t>(end);
}

Result run_launch(const std::shared_ptr<const ModuleImage>& module, standin_launch launch,
                  const std::vector<std::uint64_t>& arguments) {
    State& on = state();
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == 0) continue;
        const Allocation* const found = on.find(arguments[i], 1);
        if (found == nullptr || (found->host && !found->mapped))
            return lost_with("'" + module->cubin.entry + "': argument " + std::to_string(i) +
                             " is no memory of the device");
    }
    launch.image = module->image.data();
    launch.image_bytes = module->image.size();
    launch.entry = module->cubin.entry.c_str();
    launch.arguments = arguments.data();
    launch.argument_count = arguments.size();
    if (on.launcher == nullptr || on.launcher(on.user, &launch) != 0) return Result::launch_failed;
    return Result::success;
}

}  // namespace
}  // namespace standin

using namespace standin;
#define EXPORT __attribute__((visibility("default")))
#define BEGIN(check, name)                                                            \
    do {                                                                              \
        if (const Result begun = check(name); begun != Result::success) return begun; \
    } while (false)

extern "C" {

EXPORT Result cuInit(unsigned) {
    BEGIN(begin, "cuInit");
    return Result::success;
}
EXPORT Result cuDriverGetVersion(int* version) {
    BEGIN(begin, "cuDriverGetVersion");
    *version = 12060;
    return Result::success;
}
EXPORT Result cuGetErrorName(Result result, const char** text) {
    static thread_local std::string name;
    name = "CUDA_ERROR_" + std::to_string(static_cast<int>(result));
    *text = name.c_str();
    return Result::success;
}
EXPORT Result cuGetErrorString(Result, const char** text) {
    *text = "an error of the stand-in";
    return Result::success;
}
EXPORT Result cuDeviceGetCount(int* count) {
    BEGIN(begin, "cuDeviceGetCount");
    *count = state().count;
    return Result::success;
}
EXPORT Result cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= state().count) return Result::invalid_device;
    *device = ordinal;
    return Result::success;
}
EXPORT Result cuDeviceGetName(char* name, int length, int) {
    std::strncpy(name, "Stand-in", static_cast<std::size_t>(length));
    return Result::success;
}
EXPORT Result cuDeviceGetAttribute(int* value, DeviceAttribute attribute, int) {
    const State& on = state();
    switch (attribute) {
        case DeviceAttribute::max_threads_per_block:
            *value = 1024;
            return Result::success;
        case DeviceAttribute::integrated:
            *value = on.integrated ? 1 : 0;
            return Result::success;
        case DeviceAttribute::can_map_host_memory:
            *value = 1;
            return Result::success;
        case DeviceAttribute::compute_capability_major:
            *value = on.arch / 10;
            return Result::success;
        case DeviceAttribute::compute_capability_minor:
            *value = on.arch % 10;
            return Result::success;
        case DeviceAttribute::max_shared_memory_per_block_optin:
            *value = (on.arch == 87 ? 163 : on.arch == 89 || on.arch == 120 ? 99 : 227) << 10;
            return Result::success;
        case DeviceAttribute::l2_cache_size:
            *value = 64 << 10;
            return Result::success;
    }
    return Result::invalid_value;
}
EXPORT Result cuDevicePrimaryCtxRetain(void** context, int) {
    BEGIN(begin, "cuDevicePrimaryCtxRetain");
    ++state().retained;
    *context = &state();
    return Result::success;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(int) {
    State& on = state();
    const std::lock_guard<std::mutex> lock(on.mutex);
    if (on.retained == 0) return Result::invalid_context;
    if (--on.retained == 0) on.destroy_context();
    return Result::success;
}
EXPORT Result cuCtxPushCurrent_v2(void* context) {
    if (const Result result = begin("cuCtxPushCurrent_v2");
        result != Result::success && state().lost == Result::success)
        return result;
    if (context != &state() || state().retained == 0) return Result::invalid_context;
    ++current_depth;
    return Result::success;
}
EXPORT Result cuCtxPopCurrent_v2(void** context) {
    if (current_depth == 0) {
        state().complain("a context was popped that is not current");
        return Result::invalid_context;
    }
    --current_depth;
    *context = &state();
    return Result::success;
}
EXPORT Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
    BEGIN(begin_current, "cuMemGetInfo_v2");
    *free = state().memory_bytes - state().device_bytes;
    *total = state().memory_bytes;
    return Result::success;
}
EXPORT Result cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
    BEGIN(begin_outside_of_recordings, "cuMemAlloc_v2");
    const std::lock_guard<std::mutex> lock(state().mutex);
    return state().allocate(bytes, false, false, address);
}
EXPORT Result cuMemFree_v2(std::uint64_t address) {
    BEGIN(begin_outside_of_recordings, "cuMemFree_v2");
    if (const Result result = flush_all(); result != Result::success) return result;
    const std::lock_guard<std::mutex> lock(state().mutex);
    return state().release(address, false);
}
EXPORT Result cuMemHostAlloc(void** address, std::size_t bytes, unsigned flags) {
    BEGIN(begin_outside_of_recordings, "cuMemHostAlloc");
    const std::lock_guard<std::mutex> lock(state().mutex);
    std::uint64_t data = 0;
    const Result result = state().allocate(bytes, true, (flags & lightwam::cuda::kHostAllocDeviceMap) != 0, &data);
    *address = reinterpret_cast<void*>(data);
    return result;
}
EXPORT Result cuMemFreeHost(void* address) {
    BEGIN(begin_outside_of_recordings, "cuMemFreeHost");
    if (const Result result = flush_all(); result != Result::success) return result;
    const std::lock_guard<std::mutex> lock(state().mutex);
    return state().release(reinterpret_cast<std::uint64_t>(address), true);
}
EXPORT Result cuMemHostGetDevicePointer_v2(std::uint64_t* address, void* host, unsigned) {
    BEGIN(begin_current, "cuMemHostGetDevicePointer_v2");
    const Allocation* const found = state().find(reinterpret_cast<std::uint64_t>(host), 1);
    if (found == nullptr || !found->mapped) return Result::invalid_value;
    *address = reinterpret_cast<std::uint64_t>(host);
    return Result::success;
}
EXPORT Result cuMemcpyHtoDAsync_v2(std::uint64_t destination, const void* source, std::size_t bytes, void* stream) {
    BEGIN(begin_current, "cuMemcpyHtoDAsync_v2");
    const std::lock_guard<std::mutex> lock(state().mutex);
    StreamObject* const on = known(state().streams, stream);
    if (on == nullptr || !page_locked(source, bytes)) return Result::invalid_value;
    put(on, [=] { return copy(reinterpret_cast<void*>(destination), source, bytes, destination, source); });
    return Result::success;
}
EXPORT Result cuMemcpyDtoHAsync_v2(void* destination, std::uint64_t source, std::size_t bytes, void* stream) {
    BEGIN(begin_current, "cuMemcpyDtoHAsync_v2");
    const std::lock_guard<std::mutex> lock(state().mutex);
    StreamObject* const on = known(state().streams, stream);
    if (on == nullptr || !page_locked(destination, bytes)) return Result::invalid_value;
    put(on, [=] { return copy(destination, reinterpret_cast<const void*>(source), bytes, source, destination); });
    return Result::success;
}
EXPORT Result cuMemsetD8Async(std::uint64_t destination, unsigned char value, std::size_t bytes, void* stream) {
    BEGIN(begin_current, "cuMemsetD8Async");
    const std::lock_guard<std::mutex> lock(state().mutex);
    StreamObject* const on = known(state().streams, stream);
    if (on == nullptr) return Result::invalid_value;
    put(on, [=] {
        if (state().find(destination, bytes) == nullptr) return lost_with("a fill ran past memory of the device");
        std::memset(reinterpret_cast<void*>(destination), value, bytes);
        return Result::success;
    });
    return Result::success;
}
EXPORT Result cuStreamCreate(StreamObject** stream, unsigned) {
    BEGIN(begin_current, "cuStreamCreate");
    *stream = keep(state().streams, std::make_unique<StreamObject>());
    return Result::success;
}
EXPORT Result cuStreamDestroy_v2(StreamObject* stream) {
    BEGIN(begin_current, "cuStreamDestroy_v2");
    return destroy(state().streams, stream, "a stream");
}
EXPORT Result cuStreamSynchronize(StreamObject* stream) {
    BEGIN(begin_outside_of_recordings, "cuStreamSynchronize");
    return flush(stream);
}
EXPORT Result cuStreamBeginCapture_v2(StreamObject* stream, int) {
    BEGIN(begin_current, "cuStreamBeginCapture_v2");
    if (stream->recording != nullptr) return Result::stream_capture_unsupported;
    stream->recording = std::make_unique<GraphObject>();
    stream->spoiled = false;
    return Result::success;
}
EXPORT Result cuStreamEndCapture(StreamObject* stream, GraphObject** graph) {
    *graph = nullptr;
    const Result begun = begin_current("cuStreamEndCapture");
    std::unique_ptr<GraphObject> recorded = std::move(stream->recording);
    if (begun != Result::success) return begun;
    if (recorded == nullptr) return Result::invalid_value;
    if (stream->spoiled) return Result::stream_capture_invalidated;
    *graph = keep(state().graphs, std::move(recorded));
    return Result::success;
}
EXPORT Result cuGraphInstantiateWithFlags(GraphObject** exec, GraphObject* graph, unsigned long long) {
    BEGIN(begin_outside_of_recordings, "cuGraphInstantiateWithFlags");
    if (known(state().graphs, graph) == nullptr) return Result::invalid_value;
    *exec = keep(state().execs, std::make_unique<GraphObject>(*graph));
    return Result::success;
}
EXPORT Result cuGraphLaunch(GraphObject* exec, StreamObject* stream) {
    BEGIN(begin_current, "cuGraphLaunch");
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (known(state().execs, exec) == nullptr) return Result::invalid_value;
    for (const Work& work : exec->work) put(stream, work);
    return Result::success;
}
EXPORT Result cuGraphExecDestroy(GraphObject* exec) {
    BEGIN(begin_current, "cuGraphExecDestroy");
    return destroy(state().execs, exec, "a graph");
}
EXPORT Result cuGraphDestroy(GraphObject* graph) {
    BEGIN(begin_current, "cuGraphDestroy");
    return destroy(state().graphs, graph, "a recorded graph");
}
EXPORT Result cuModuleLoadData(ModuleState** module, const unsigned char* image) {
    BEGIN(begin_current, "cuModuleLoadData");
    auto loaded = std::make_shared<ModuleImage>();
    loaded->image.assign(image, image + elf_bytes(image));
    try {
        loaded->cubin = lightwam::cuda::read_cubin(
            {reinterpret_cast<const std::byte*>(loaded->image.data()), loaded->image.size()});
    } catch (const lightwam::cuda::CubinError&) {
        return Result::invalid_image;
    }
    if (loaded->cubin.arch != state().arch) return Result::no_binary_for_gpu;
    auto object = std::make_unique<ModuleState>();
    object->image = std::move(loaded);
    *module = keep(state().modules, std::move(object));
    return Result::success;
}
EXPORT Result cuModuleUnload(ModuleState* module) {
    BEGIN(begin_current, "cuModuleUnload");
    return destroy(state().modules, module, "a module");
}
EXPORT Result cuModuleGetFunction(FunctionObject** function, ModuleState* module, const char* name) {
    BEGIN(begin_current, "cuModuleGetFunction");
    if (known(state().modules, module) == nullptr || module->image->cubin.entry != name) return Result::not_found;
    module->functions.push_back(std::make_unique<FunctionObject>(FunctionObject{module->image}));
    *function = module->functions.back().get();
    return Result::success;
}
EXPORT Result cuFuncSetAttribute(FunctionObject* function, lightwam::cuda::FunctionAttribute, int value) {
    BEGIN(begin_current, "cuFuncSetAttribute");
    function->max_shared = static_cast<unsigned>(value);
    return Result::success;
}
EXPORT Result cuLaunchKernel(FunctionObject* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                             StreamObject* stream, void** parameters, void** extra) {
    if (const Result begun = begin_current("cuLaunchKernel"); begun != Result::success) {
        stream->spoiled = true;
        return begun;
    }
    const std::array<std::uint32_t, 3> block = {block_x, block_y, block_z};
    if (extra != nullptr || grid_x == 0 || grid_y == 0 || grid_z == 0 || shared > function->max_shared ||
        block != function->module->cubin.required_threads) {
        stream->spoiled = true;
        return Result::invalid_value;
    }
    // Parameters are copied now, whatever happens to them later.
    std::vector<std::uint64_t> arguments;
    for (std::size_t i = 0; i < function->module->cubin.parameters.size(); ++i)
        arguments.push_back(*static_cast<const std::uint64_t*>(parameters[i]));
    standin_launch launch{};
    launch.grid[0] = grid_x;
    launch.grid[1] = grid_y;
    launch.grid[2] = grid_z;
    launch.threads = block_x;
    launch.shared = shared;
    const std::lock_guard<std::mutex> lock(state().mutex);
    put(stream, [module = function->module, launch, arguments] { return run_launch(module, launch, arguments); });
    return Result::success;
}
EXPORT Result cuEventCreate(EventObject** event, unsigned flags) {
    BEGIN(begin_current, "cuEventCreate");
    *event = keep(state().events, std::make_unique<EventObject>());
    (*event)->timed = (flags & lightwam::cuda::kEventDisableTiming) == 0;
    return Result::success;
}
EXPORT Result cuEventDestroy_v2(EventObject* event) {
    BEGIN(begin_current, "cuEventDestroy_v2");
    return destroy(state().events, event, "an event");
}
EXPORT Result cuEventRecord(EventObject* event, StreamObject* stream) {
    BEGIN(begin_current, "cuEventRecord");
    event->stream = stream;
    const std::lock_guard<std::mutex> lock(state().mutex);
    put(stream, read_clock(*event));
    return Result::success;
}
// While a stream records, only an external event becomes a reading of the clock.
EXPORT Result cuEventRecordWithFlags(EventObject* event, StreamObject* stream, unsigned flags) {
    BEGIN(begin_current, "cuEventRecordWithFlags");
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (known(state().events, event) == nullptr || stream->recording == nullptr ||
        flags != lightwam::cuda::kEventRecordExternal)
        return Result::invalid_value;
    put(stream, read_clock(*event));
    return Result::success;
}
EXPORT Result cuEventElapsedTime(float* milliseconds, EventObject* start, EventObject* end) {
    BEGIN(begin_current, "cuEventElapsedTime");
    if (!start->timed || !end->timed || *start->seconds == 0.0 || *end->seconds == 0.0) return Result::invalid_value;
    *milliseconds = static_cast<float>(1e3 * (*end->seconds - *start->seconds));
    return Result::success;
}
EXPORT Result cuEventSynchronize(EventObject* event) {
    BEGIN(begin_outside_of_recordings, "cuEventSynchronize");
    return event->stream == nullptr ? Result::success : flush(event->stream);
}

}  // extern "C"
