// SPDX-License-Identifier: Apache-2.0
#include "state.hpp"

#include <algorithm>
#include <cstring>

namespace standin {
namespace {

bool intact(const unsigned char* guard) {
    return std::all_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte == kGuard; });
}

}  // namespace

State& state() {
    static State instance;
    return instance;
}

const Allocation* State::find(std::uint64_t address, std::size_t bytes, std::uint64_t* base) const {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return nullptr;
    --next;
    const std::uint64_t offset = address - next->first;
    if (offset >= next->second.bytes || bytes > next->second.bytes - offset) return nullptr;
    if (base != nullptr) *base = next->first;
    return &next->second;
}

void State::check_guards() {
    for (const auto& [address, allocation] : allocations) {
        const auto* const data = reinterpret_cast<const unsigned char*>(address);
        if (!intact(data - kGuardBytes) || !intact(data + allocation.bytes))
            complain("bytes beside an allocation of " + std::to_string(allocation.bytes) + " changed");
    }
}

std::uint64_t State::live() const {
    return allocations.size() + streams.size() + graphs.size() + execs.size() + modules.size() + events.size();
}

void State::destroy_context() {
    if (lost == Result::success) leaked += live();
    check_guards();
    allocations.clear();
    streams.clear();
    graphs.clear();
    execs.clear();
    modules.clear();
    events.clear();
    device_bytes = 0;
    lost = Result::success;
}

Result State::allocate(std::size_t bytes, bool host, bool mapped, std::uint64_t* address) {
    if (bytes == 0) return Result::invalid_value;
    if (!host && bytes > memory_bytes - device_bytes) return Result::out_of_memory;
    constexpr std::size_t kAlignment = 256;
    Allocation allocation{nullptr, bytes, host, mapped};
    allocation.memory.reset(new unsigned char[bytes + 2 * kGuardBytes + kAlignment]);
    auto data = reinterpret_cast<std::uint64_t>(allocation.memory.get()) + kGuardBytes;
    data = (data + kAlignment - 1) / kAlignment * kAlignment;
    auto* const begin = reinterpret_cast<unsigned char*>(data);
    std::memset(begin - kGuardBytes, kGuard, kGuardBytes);
    std::memset(begin, kPoison, bytes);
    std::memset(begin + bytes, kGuard, kGuardBytes);
    if (!host) device_bytes += bytes;
    peak_device_bytes = std::max(peak_device_bytes, device_bytes);
    allocations.emplace(data, std::move(allocation));
    *address = data;
    return Result::success;
}

Result State::release(std::uint64_t address, bool host) {
    const auto found = allocations.find(address);
    if (found == allocations.end() || found->second.host != host) {
        complain("memory was freed that is not allocated");
        return Result::invalid_value;
    }
    check_guards();
    std::memset(reinterpret_cast<void*>(address), kFreed, found->second.bytes);
    if (!host) device_bytes -= found->second.bytes;
    allocations.erase(found);
    return Result::success;
}

}  // namespace standin

extern "C" {

void standin_set_launcher(standin_launcher launcher, void* user) {
    standin::state().launcher = launcher;
    standin::state().user = user;
}

void standin_set_device(int count, int arch, int integrated, uint64_t memory_bytes) {
    standin::State& on = standin::state();
    on.count = count;
    on.arch = arch;
    on.integrated = integrated != 0;
    on.memory_bytes = memory_bytes;
}

void standin_fail(const char* function, int nth, int result) {
    standin::state().faults[function] = {nth, static_cast<standin::Result>(result)};
}

void standin_advance_clock(double seconds) { standin::state().clock.fetch_add(seconds); }
void standin_set_order(unsigned order) { standin::state().order = order; }

uint64_t standin_calls(const char* function) { return standin::state().calls[function]; }

uint64_t standin_live(const char* kind) {
    const standin::State& on = standin::state();
    const std::string name = kind;
    const auto allocations = [&](bool host) {
        return static_cast<uint64_t>(std::count_if(on.allocations.begin(), on.allocations.end(),
                                                   [&](const auto& entry) { return entry.second.host == host; }));
    };
    if (name == "device") return allocations(false);
    if (name == "host") return allocations(true);
    if (name == "modules") return on.modules.size();
    if (name == "streams") return on.streams.size();
    if (name == "graphs") return on.graphs.size();
    if (name == "execs") return on.execs.size();
    if (name == "events") return on.events.size();
    if (name == "contexts") return on.retained > 0 ? 1 : 0;
    return UINT64_MAX;
}

uint64_t standin_leaked(void) { return standin::state().leaked; }
uint64_t standin_peak_device_bytes(void) { return standin::state().peak_device_bytes; }

uint64_t standin_bytes_from(uint64_t address) {
    uint64_t base = 0;
    const standin::Allocation* const found = standin::state().find(address, 1, &base);
    return found == nullptr ? 0 : found->bytes - (address - base);
}

const char* standin_misuse(void) { return standin::state().misuse.c_str(); }

}  // extern "C"
