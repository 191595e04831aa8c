// SPDX-License-Identifier: Apache-2.0
// The GPU driver's interface, loaded from libcuda.so.1 when it is asked for. Types and numbers are those of the
// driver's documented binary interface; no CUDA header is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "lightwam/policy.hpp"

namespace lightwam::cuda {

using DeviceAddress = std::uint64_t;
using Device = int;
using Context = struct ContextHandle*;
using ModuleHandle = struct ModuleObject*;
using Function = struct FunctionHandle*;
using Stream = struct StreamHandle*;
using Graph = struct GraphHandle*;
using GraphExec = struct GraphExecHandle*;
using Event = struct EventHandle*;

// CUresult, as far as the code asks for a certain one.
enum class Result : int {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    no_binary_for_gpu = 209,
    invalid_source = 300,
    not_found = 500,
    launch_failed = 719,
    not_supported = 801,
    system_driver_mismatch = 803,
    stream_capture_unsupported = 900,
    stream_capture_invalidated = 901,
};

// After such an error every call on the context fails: it must be given back, and made anew.
constexpr bool loses_device(Result result) noexcept {
    switch (static_cast<int>(result)) {
        case 4:    // deinitialized
        case 46:   // device unavailable
        case 201:  // invalid context
        case 214:  // uncorrectable memory error
        case 220:  // link to another GPU failed
        case 226:  // an exception on the device, contained
        case 700:  // illegal address
        case 702:  // time-out
        case 709:  // context destroyed
        case 710:  // assertion in a kernel
        case 714:  // error on the hardware's stack
        case 715:  // illegal instruction
        case 716:  // misaligned address
        case 717:  // invalid address space
        case 718:  // invalid program counter
        case 719:  // launch failed
        case 721:  // tensor memory not given back
        case 999:  // unknown
            return true;
        default:
            return false;
    }
}

// CUdevice_attribute.
enum class DeviceAttribute : int {
    max_threads_per_block = 1,
    integrated = 18,
    can_map_host_memory = 19,
    l2_cache_size = 38,
    compute_capability_major = 75,
    compute_capability_minor = 76,
    max_shared_memory_per_block_optin = 97,
};

enum class FunctionAttribute : int { max_dynamic_shared_size_bytes = 8 };

inline constexpr unsigned kStreamNonBlocking = 1;            // CU_STREAM_NON_BLOCKING
inline constexpr unsigned kHostAllocDeviceMap = 2;           // CU_MEMHOSTALLOC_DEVICEMAP
inline constexpr unsigned kEventDefault = 0;                 // CU_EVENT_DEFAULT
inline constexpr unsigned kEventDisableTiming = 2;           // CU_EVENT_DISABLE_TIMING
inline constexpr unsigned kEventRecordExternal = 1;          // CU_EVENT_RECORD_EXTERNAL
inline constexpr int kCaptureThreadLocal = 1;                // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
inline constexpr std::size_t kDefaultSharedMax = 48 << 10;   // dynamic shared memory that needs no asking
inline constexpr unsigned long long kGraphNodePriority = 8;  // CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY

// Pointers to the driver's functions, named as there without "cu" and version.
struct Driver {
    Result (*init)(unsigned flags);
    Result (*driver_get_version)(int* version);
    Result (*get_error_name)(Result result, const char** text);
    Result (*get_error_string)(Result result, const char** text);
    Result (*device_get_count)(int* count);
    Result (*device_get)(Device* device, int ordinal);
    Result (*device_get_name)(char* name, int length, Device device);
    Result (*device_get_attribute)(int* value, DeviceAttribute attribute, Device device);
    Result (*device_primary_ctx_retain)(Context* context, Device device);
    Result (*device_primary_ctx_release)(Device device);
    Result (*ctx_push_current)(Context context);
    Result (*ctx_pop_current)(Context* context);
    Result (*mem_get_info)(std::size_t* free, std::size_t* total);
    Result (*mem_alloc)(DeviceAddress* address, std::size_t bytes);
    Result (*mem_free)(DeviceAddress address);
    Result (*mem_host_alloc)(void** address, std::size_t bytes, unsigned flags);
    Result (*mem_free_host)(void* address);
    Result (*mem_host_get_device_pointer)(DeviceAddress* address, void* host, unsigned flags);
    Result (*memcpy_htod_async)(DeviceAddress destination, const void* source, std::size_t bytes, Stream stream);
    Result (*memcpy_dtoh_async)(void* destination, DeviceAddress source, std::size_t bytes, Stream stream);
    Result (*memset_d8_async)(DeviceAddress destination, unsigned char value, std::size_t bytes, Stream stream);
    Result (*ctx_get_stream_priority_range)(int* least, int* greatest);
    Result (*stream_create_with_priority)(Stream* stream, unsigned flags, int priority);
    Result (*stream_destroy)(Stream stream);
    Result (*stream_synchronize)(Stream stream);
    Result (*stream_wait_event)(Stream stream, Event event, unsigned flags);
    Result (*stream_begin_capture)(Stream stream, int mode);
    Result (*stream_end_capture)(Stream stream, Graph* graph);
    Result (*graph_instantiate)(GraphExec* exec, Graph graph, unsigned long long flags);
    Result (*graph_launch)(GraphExec exec, Stream stream);
    Result (*graph_exec_destroy)(GraphExec exec);
    Result (*graph_destroy)(Graph graph);
    Result (*module_load_data)(ModuleHandle* module, const void* image);
    Result (*module_unload)(ModuleHandle module);
    Result (*module_get_function)(Function* function, ModuleHandle module, const char* name);
    Result (*func_set_attribute)(Function function, FunctionAttribute attribute, int value);
    Result (*launch_kernel)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                            unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                            void** extra);
    Result (*event_create)(Event* event, unsigned flags);
    Result (*event_destroy)(Event event);
    Result (*event_record)(Event event, Stream stream);
    Result (*event_record_with_flags)(Event event, Stream stream, unsigned flags);
    Result (*event_synchronize)(Event event);
    Result (*event_elapsed_time)(float* milliseconds, Event start, Event end);

    // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)".
    std::string text(Result result) const;
};

// What the driver refused.
class DriverError : public Error {
  public:
    DriverError(const Driver& driver, Result result, const std::string& what);
    Result result() const noexcept { return result_; }

  private:
    Result result_;
};

// Throws DriverError "WHAT: the GPU driver says RESULT" unless the result is success.
inline void check(const Driver& driver, Result result, const std::string& what) {
    if (result != Result::success) throw DriverError(driver, result, what);
}
inline void check(const Driver& driver, Result result, const char* what) {
    if (result != Result::success) throw DriverError(driver, result, what);
}

// The driver of this process, initialised; loaded by the first call that succeeds and never unloaded.
// Throws Error (device) when there is none, it lacks a function, or it does not start.
const Driver& load_driver();

}  // namespace lightwam::cuda
