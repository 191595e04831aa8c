// SPDX-License-Identifier: Apache-2.0
// The GPU driver's interface, loaded from libcuda.so.1 at the first use. Types and numbers are those of the
// driver's documented binary interface; no CUDA header is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

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

// CUresult, as far as the code looks for a certain one.
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
    not_found = 500,
    launch_failed = 719,
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
inline constexpr std::size_t kDefaultSharedMax = 48 << 10;   // dynamic shared memory without a function attribute
inline constexpr unsigned long long kGraphNodePriority = 8;  // CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY

// Pointers to the driver's functions, named as there without "cu" and version.
struct Driver {
#define LIGHTWAM_DRIVER_FUNCTION(name, symbol, ...) Result (*name)(__VA_ARGS__);
#include "cuda/driver_functions.def"

    // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)".
    std::string text(Result result) const;
};

// A call of the driver that failed.
class DriverError : public Error {
  public:
    DriverError(const Driver& driver, Result result, const std::string& what);
    Result result() const noexcept { return result_; }

  private:
    Result result_;
};

// Throws DriverError "WHAT: the GPU driver says RESULT" unless the result is success.
inline void check(const Driver& driver, Result result, std::string_view what) {
    if (result != Result::success) throw DriverError(driver, result, std::string(what));
}

// The driver of this process, initialised; loaded by the first call that succeeds and never unloaded.
// Throws Error (device) when there is none, it lacks a function, it does not start, or it was started before a fork.
const Driver& load_driver();
// In the child of a fork: the driver that the parent started is of no use here.
void forget_driver() noexcept;

}  // namespace lightwam::cuda
