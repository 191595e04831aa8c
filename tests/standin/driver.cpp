// SPDX-License-Identifier: Apache-2.0
// The driver's functions, those that csrc/cuda/driver.cpp looks up, but for streams (driver_streams.cpp). They check
// what a driver checks.
#include <algorithm>
#include <array>
#include <cstring>

#include "calls.hpp"

namespace standin {
namespace {

using lightwam::cuda::DeviceAttribute;

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

void spoil(StreamObject* stream) {
    if (stream->recording != nullptr) stream->recording->spoiled = true;
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
    BEGIN(begin, "cuDeviceGet");
    if (ordinal < 0 || ordinal >= state().count) return Result::invalid_device;
    *device = ordinal;
    return Result::success;
}
EXPORT Result cuDeviceGetName(char* name, int length, int) {
    BEGIN(begin, "cuDeviceGetName");
    std::strncpy(name, "Stand-in", static_cast<std::size_t>(length));
    return Result::success;
}
EXPORT Result cuDeviceGetAttribute(int* value, DeviceAttribute attribute, int) {
    BEGIN(begin, "cuDeviceGetAttribute");
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
        spoil(stream);
        return begun;
    }
    const std::array<std::uint32_t, 3> block = {block_x, block_y, block_z};
    if (extra != nullptr || grid_x == 0 || grid_y == 0 || grid_z == 0 || shared > function->max_shared ||
        block != function->module->cubin.required_threads) {
        spoil(stream);
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
// What the stand-in of a library puts onto a stream. The real one must not touch the device's memory; here it may.
EXPORT Result cuLaunchHostFunc(StreamObject* stream, void (*function)(void*), void* data) {
    if (const Result begun = begin_current("cuLaunchHostFunc"); begun != Result::success) {
        spoil(stream);
        return begun;
    }
    const std::lock_guard<std::mutex> lock(state().mutex);
    put(stream, [function, data] {
        function(data);
        return Result::success;
    });
    return Result::success;
}

}  // extern "C"
