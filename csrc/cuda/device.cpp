// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>

namespace lightwam::cuda {
namespace {

int attribute(const Driver& driver, DeviceAttribute which, Device device) {
    int value = 0;
    check(driver, driver.device_get_attribute(&value, which, device), "reading the properties of the GPU");
    return value;
}

Gpu describe(const Driver& driver, int ordinal) {
    Gpu gpu;
    char name[256] = {};
    check(driver, driver.device_get(&gpu.device, ordinal), "opening GPU " + std::to_string(ordinal));
    check(driver, driver.device_get_name(name, sizeof(name) - 1, gpu.device), "reading the name of the GPU");
    gpu.name = name;
    gpu.arch = 10 * attribute(driver, DeviceAttribute::compute_capability_major, gpu.device) +
               attribute(driver, DeviceAttribute::compute_capability_minor, gpu.device);
    gpu.integrated = attribute(driver, DeviceAttribute::integrated, gpu.device) != 0 &&
                     attribute(driver, DeviceAttribute::can_map_host_memory, gpu.device) != 0;
    gpu.max_threads = static_cast<std::uint32_t>(attribute(driver, DeviceAttribute::max_threads_per_block, gpu.device));
    gpu.max_shared =
        static_cast<std::uint32_t>(attribute(driver, DeviceAttribute::max_shared_memory_per_block_optin, gpu.device));
    gpu.cache_bytes = static_cast<std::size_t>(attribute(driver, DeviceAttribute::l2_cache_size, gpu.device));
    return gpu;
}

constexpr int kFirstArchWithF8 = 89;

// MemAvailable of the system, bytes; 0 when it does not say.
std::size_t system_memory_available() {
    std::ifstream file("/proc/meminfo");
    std::string key;
    std::size_t kilobytes = 0;
    std::string unit;
    while (file >> key >> kilobytes) {
        std::getline(file, unit);
        if (key == "MemAvailable:") return kilobytes << 10;
    }
    return 0;
}

std::string allocating(std::size_t bytes, const std::string& what) {
    return "allocating " + std::to_string(bytes) + " bytes for " + what;
}

}  // namespace

Gpu find_gpu(const Driver& driver, const engine::LaunchPlan& plan, const engine::Graph& graph) {
    int count = 0;
    check(driver, driver.device_get_count(&count), "counting the GPUs");
    if (count == 0)
        throw Error(ErrorKind::device,
                    "there is no GPU that this process may use; pass device='cpu', or look at "
                    "CUDA_VISIBLE_DEVICES");
    std::string found;
    bool multiplies_f8 = false;
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        Gpu gpu = describe(driver, ordinal);
        for (std::size_t target = 0; target < plan.targets.size(); ++target) {
            if (plan.targets[target].arch != gpu.arch) continue;
            gpu.target = target;
            return gpu;
        }
        multiplies_f8 = multiplies_f8 || gpu.arch >= kFirstArchWithF8;
        found += (found.empty() ? "'" : ", '") + gpu.name + "' (sm_" + std::to_string(gpu.arch) + ")";
    }
    std::string held;
    for (const engine::PlanTarget& target : plan.targets) held += (held.empty() ? "" : ", ") + target.name;
    const bool lacks_f8 = graph.precision == engine::Precision::fp8 && !multiplies_f8;
    throw Error(ErrorKind::device,
                "engine '" + graph.name + "' has machine code for " + held + ", but this machine's GPU is " + found +
                    (lacks_f8 ? ", which has no fp8 products; take an int8 engine ('lightwam quantize --format int8')"
                              : "; run 'lightwam compile' for it") +
                    ", or pass device='cpu'");
}

PrimaryContext::PrimaryContext(const Driver& driver, const Gpu& gpu) : driver_(driver), device_(gpu.device) {
    check(driver, driver.device_primary_ctx_retain(&handle_, gpu.device), "starting GPU '" + gpu.name + "'");
}

ContextScope::ContextScope(const Driver& driver, const PrimaryContext& context) : driver_(driver) {
    check(driver, driver.ctx_push_current(context.handle()), "using the GPU from this thread");
}

ContextScope::~ContextScope() {
    Context popped = nullptr;
    driver_.ctx_pop_current(&popped);
}

StreamOwner::StreamOwner(const Driver& driver, StreamPriority priority) : Owned(driver) {
    const char* const what = "making a stream on the GPU";
    int last = 0;
    int first = 0;
    check(driver, driver.ctx_get_stream_priority_range(&last, &first), what);
    const int number = priority == StreamPriority::first ? first : last;
    check(driver, driver.stream_create_with_priority(&handle_, kStreamNonBlocking, number), what);
}

EventOwner::EventOwner(const Driver& driver, unsigned flags) : Owned(driver) {
    check(driver, driver.event_create(&handle_, flags), "making an event on the GPU");
}

std::size_t available_memory(const Driver& driver, const Gpu& gpu) {
    std::size_t free = 0;
    std::size_t total = 0;
    check(driver, driver.mem_get_info(&free, &total), "reading the free memory of the GPU");
    return gpu.integrated ? std::max(free, std::min(total, system_memory_available())) : free;
}

DeviceBlock::DeviceBlock(const Driver& driver, std::size_t bytes, const std::string& what)
    : Owned(driver), bytes_(bytes) {
    if (bytes > 0) check(driver, driver.mem_alloc(&handle_, bytes), allocating(bytes, what));
}

PinnedBlock::PinnedBlock(const Driver& driver, std::size_t bytes, bool mapped, const std::string& what)
    : Owned(driver), bytes_(bytes) {
    const unsigned flags = mapped ? kHostAllocDeviceMap : 0;
    if (bytes > 0) check(driver, driver.mem_host_alloc(&handle_, bytes, flags), allocating(bytes, what));
}

StagedBlock::StagedBlock(const Driver& driver, const Gpu& gpu, std::size_t bytes, const std::string& what)
    : host_(driver, bytes, gpu.integrated, what) {
    if (bytes == 0) return;
    std::memset(host_.data(), 0, bytes);
    if (gpu.integrated) {
        check(driver, driver.mem_host_get_device_pointer(&address_, host_.data(), 0), "mapping memory for " + what);
    } else {
        device_ = DeviceBlock(driver, bytes, what);
        address_ = device_.address();
    }
}

void StagedBlock::upload(const Driver& driver, Stream stream, std::size_t bytes) const {
    if (device_.bytes() == 0 || bytes == 0) return;
    check(driver, driver.memcpy_htod_async(address_, data(), bytes, stream), "copying inputs to the GPU");
}

void StagedBlock::download(const Driver& driver, Stream stream) const {
    if (device_.bytes() == 0) return;
    check(driver, driver.memcpy_dtoh_async(data(), address_, bytes(), stream), "copying actions from the GPU");
}

}  // namespace lightwam::cuda
