// SPDX-License-Identifier: Apache-2.0
// What the stand-in driver keeps: memory with guards, streams, graphs, modules, and the faults a test set.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda/cubin.hpp"
#include "cuda/driver.hpp"
#include "standin.h"
#include "streams.hpp"

namespace standin {

inline constexpr std::size_t kGuardBytes = 512;
inline constexpr unsigned char kGuard = 0xA5;
inline constexpr unsigned char kPoison = 0xFF;  // NaN in every float format
inline constexpr unsigned char kFreed = 0xDB;

struct Allocation {
    std::unique_ptr<unsigned char[]> memory;  // guard, bytes, guard
    std::size_t bytes = 0;
    bool host = false;
    bool mapped = false;
};

struct ModuleImage {
    std::vector<unsigned char> image;
    lightwam::cuda::Cubin cubin;
};

struct FunctionObject {
    std::shared_ptr<const ModuleImage> module;
    unsigned max_shared = lightwam::cuda::kDefaultSharedMax;
};

struct ModuleState {
    std::shared_ptr<const ModuleImage> image;
    std::vector<std::unique_ptr<FunctionObject>> functions;
};

struct Fault {
    int countdown = 0;
    Result result = Result::success;
};

struct State {
    std::mutex mutex;
    int count = 1;
    int arch = 87;
    bool integrated = false;
    std::uint64_t memory_bytes = std::uint64_t{8} << 30;
    standin_launcher launcher = nullptr;
    void* user = nullptr;
    unsigned order = STANDIN_OLDEST;
    std::uint64_t put_count = 0;  // pieces of work, onto all streams

    std::map<std::string, Fault, std::less<>> faults;
    std::map<std::string, std::uint64_t, std::less<>> calls;
    Result lost = Result::success;    // not success: the device is gone
    std::atomic<double> clock = 0.0;  // seconds
    std::string misuse;

    int retained = 0;
    std::map<std::uint64_t, Allocation> allocations;  // by address
    std::uint64_t device_bytes = 0;
    std::uint64_t peak_device_bytes = 0;
    std::uint64_t leaked = 0;
    std::map<StreamObject*, std::unique_ptr<StreamObject>> streams;
    std::map<GraphObject*, std::unique_ptr<GraphObject>> graphs;
    std::map<GraphObject*, std::unique_ptr<GraphObject>> execs;
    std::map<ModuleState*, std::unique_ptr<ModuleState>> modules;
    std::map<EventObject*, std::unique_ptr<EventObject>> events;

    // The live allocation that holds [address, address + bytes); null when there is none.
    const Allocation* find(std::uint64_t address, std::size_t bytes, std::uint64_t* base = nullptr) const;
    void complain(const std::string& what) { misuse += what + "\n"; }
    void check_guards();
    std::uint64_t live() const;
    // Everything dies with the context.
    void destroy_context();
    Result allocate(std::size_t bytes, bool host, bool mapped, std::uint64_t* address);
    Result release(std::uint64_t address, bool host);
};

State& state();

}  // namespace standin
