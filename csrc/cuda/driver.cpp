// SPDX-License-Identifier: Apache-2.0
#include "cuda/driver.hpp"

#include <dlfcn.h>

#include <cstring>
#include <mutex>

namespace lightwam::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorKind::device, why); }

// Looks functions up; a driver that lacks one is too old.
class Loader {
  public:
    explicit Loader(void* library) : library_(library) {}

    template <typename Pointer>
    void operator()(Pointer& function, const char* name) const {
        void* const address = ::dlsym(library_, name);
        if (address == nullptr)
            refuse(std::string("the GPU driver (") + kLibrary + ") has no function " + name +
                   "; install a newer one, or use device='cpu'");
        static_assert(sizeof(Pointer) == sizeof(address));
        std::memcpy(&function, &address, sizeof(address));
    }

  private:
    void* library_;
};

Driver look_up(void* library) {
    const Loader load(library);
    Driver driver{};
    load(driver.init, "cuInit");
    load(driver.driver_get_version, "cuDriverGetVersion");
    load(driver.get_error_name, "cuGetErrorName");
    load(driver.get_error_string, "cuGetErrorString");
    load(driver.device_get_count, "cuDeviceGetCount");
    load(driver.device_get, "cuDeviceGet");
    load(driver.device_get_name, "cuDeviceGetName");
    load(driver.device_get_attribute, "cuDeviceGetAttribute");
    load(driver.device_primary_ctx_retain, "cuDevicePrimaryCtxRetain");
    load(driver.device_primary_ctx_release, "cuDevicePrimaryCtxRelease_v2");
    load(driver.ctx_push_current, "cuCtxPushCurrent_v2");
    load(driver.ctx_pop_current, "cuCtxPopCurrent_v2");
    load(driver.mem_get_info, "cuMemGetInfo_v2");
    load(driver.mem_alloc, "cuMemAlloc_v2");
    load(driver.mem_free, "cuMemFree_v2");
    load(driver.mem_host_alloc, "cuMemHostAlloc");
    load(driver.mem_free_host, "cuMemFreeHost");
    load(driver.mem_host_get_device_pointer, "cuMemHostGetDevicePointer_v2");
    load(driver.memcpy_htod_async, "cuMemcpyHtoDAsync_v2");
    load(driver.memcpy_dtoh_async, "cuMemcpyDtoHAsync_v2");
    load(driver.memset_d8_async, "cuMemsetD8Async");
    load(driver.ctx_get_stream_priority_range, "cuCtxGetStreamPriorityRange");
    load(driver.stream_create_with_priority, "cuStreamCreateWithPriority");
    load(driver.stream_destroy, "cuStreamDestroy_v2");
    load(driver.stream_synchronize, "cuStreamSynchronize");
    load(driver.stream_wait_event, "cuStreamWaitEvent");
    load(driver.stream_begin_capture, "cuStreamBeginCapture_v2");
    load(driver.stream_end_capture, "cuStreamEndCapture");
    load(driver.graph_instantiate, "cuGraphInstantiateWithFlags");
    load(driver.graph_launch, "cuGraphLaunch");
    load(driver.graph_exec_destroy, "cuGraphExecDestroy");
    load(driver.graph_destroy, "cuGraphDestroy");
    load(driver.module_load_data, "cuModuleLoadData");
    load(driver.module_unload, "cuModuleUnload");
    load(driver.module_get_function, "cuModuleGetFunction");
    load(driver.func_set_attribute, "cuFuncSetAttribute");
    load(driver.launch_kernel, "cuLaunchKernel");
    load(driver.event_create, "cuEventCreate");
    load(driver.event_destroy, "cuEventDestroy_v2");
    load(driver.event_record, "cuEventRecord");
    load(driver.event_record_with_flags, "cuEventRecordWithFlags");
    load(driver.event_synchronize, "cuEventSynchronize");
    load(driver.event_elapsed_time, "cuEventElapsedTime");
    return driver;
}

}  // namespace

std::string Driver::text(Result result) const {
    const char* name = nullptr;
    const char* explanation = nullptr;
    if (get_error_name(result, &name) != Result::success || name == nullptr)
        return "error " + std::to_string(static_cast<int>(result));
    if (get_error_string(result, &explanation) != Result::success || explanation == nullptr) return name;
    return std::string(name) + " (" + explanation + ")";
}

DriverError::DriverError(const Driver& driver, Result result, const std::string& what)
    : Error(ErrorKind::device, what + ": the GPU driver says " + driver.text(result)), result_(result) {}

const Driver& load_driver() {
    static std::mutex mutex;
    static Driver driver;
    static bool loaded = false;
    const std::lock_guard<std::mutex> lock(mutex);
    if (loaded) return driver;
    void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* const why = ::dlerror();
        refuse(std::string("no GPU driver: ") + (why != nullptr ? why : kLibrary) +
               "; install the driver of an NVIDIA GPU, or use device='cpu'");
    }
    Driver found = look_up(library);
    if (const Result result = found.init(0); result != Result::success)
        refuse("the GPU driver does not start: " + found.text(result) +
               (result == Result::no_device ? "; there is no GPU that this process may use"
                                            : "; restart the machine or install the driver again") +
               ", or use device='cpu'");
    driver = found;
    loaded = true;
    return driver;
}

}  // namespace lightwam::cuda
