// SPDX-License-Identifier: Apache-2.0
// Which GPU runs a plan, and its context, streams and memory for as long as a policy needs them.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "cuda/driver.hpp"
#include "engine/launch_plan.hpp"

namespace lightwam::cuda {

struct Gpu {
    Device device = 0;
    std::string name;
    int arch = 0;             // 87: compute capability 8.7
    std::size_t target = 0;   // of the plan's: whose machine code it runs
    bool integrated = false;  // shares its memory with the CPU
    std::uint32_t max_threads = 0;
    std::uint32_t max_shared = 0;  // dynamic shared memory of a block, bytes
    std::size_t cache_bytes = 0;   // its last-level cache
};

// The first GPU of this process that the plan has machine code for. Throws Error (device) naming the GPUs and the
// targets held. Machine code runs on the architecture that it was made for and on no other.
Gpu find_gpu(const Driver& driver, const engine::LaunchPlan& plan, const engine::Graph& graph);

// The device's primary context, shared with other libraries of the process. Current only inside of a ContextScope.
class PrimaryContext {
  public:
    PrimaryContext(const Driver& driver, const Gpu& gpu);
    ~PrimaryContext() { driver_.device_primary_ctx_release(device_); }
    PrimaryContext(const PrimaryContext&) = delete;
    PrimaryContext& operator=(const PrimaryContext&) = delete;
    Context handle() const { return handle_; }

  private:
    const Driver& driver_;
    Device device_;
    Context handle_ = nullptr;
};

// Makes a context current for this thread, and the one before again at the end.
class ContextScope {
  public:
    ContextScope(const Driver& driver, const PrimaryContext& context);
    ~ContextScope();
    ContextScope(const ContextScope&) = delete;
    ContextScope& operator=(const ContextScope&) = delete;

  private:
    const Driver& driver_;
};

// A handle that is given back to the driver at the end.
template <typename Handle, auto give_back>
class Owned {
  public:
    Owned() = default;
    explicit Owned(const Driver& driver) : driver_(&driver) {}
    ~Owned() {
        if (handle_ != Handle{}) (driver_->*give_back)(handle_);
    }
    Owned(Owned&& other) noexcept { *this = std::move(other); }
    Owned& operator=(Owned&& other) noexcept {
        std::swap(driver_, other.driver_);
        std::swap(handle_, other.handle_);
        return *this;
    }
    Handle handle() const { return handle_; }

  protected:
    const Driver* driver_ = nullptr;
    Handle handle_{};
};

// Whose launches the GPU takes first, of those that are ready.
enum class StreamPriority { first, last };

class StreamOwner : public Owned<Stream, &Driver::stream_destroy> {
  public:
    explicit StreamOwner(const Driver& driver, StreamPriority priority = StreamPriority::first);
    void synchronize(const char* what) const { check(*driver_, driver_->stream_synchronize(handle_), what); }
};

// A place in a stream. With kEventDefault it tells the time when the stream was there.
class EventOwner : public Owned<Event, &Driver::event_destroy> {
  public:
    explicit EventOwner(const Driver& driver, unsigned flags = kEventDisableTiming);
};

// Bytes that may be allocated now, in the current context. An integrated GPU has what the system can make free: the
// driver counts the file cache as used.
std::size_t available_memory(const Driver& driver, const Gpu& gpu);

// Memory on the device, not initialised. Made and destroyed with the GPU's context current, as the blocks below.
class DeviceBlock : public Owned<DeviceAddress, &Driver::mem_free> {
  public:
    DeviceBlock() = default;
    DeviceBlock(const Driver& driver, std::size_t bytes, const std::string& what);

    DeviceAddress address() const { return handle_; }
    std::size_t bytes() const { return bytes_; }

  private:
    std::size_t bytes_ = 0;
};

// Page-locked memory of the CPU, which the GPU copies without help.
class PinnedBlock : public Owned<void*, &Driver::mem_free_host> {
  public:
    PinnedBlock() = default;
    PinnedBlock(const Driver& driver, std::size_t bytes, bool mapped, const std::string& what);

    std::byte* data() const { return static_cast<std::byte*>(handle_); }
    std::size_t bytes() const { return bytes_; }

  private:
    std::size_t bytes_ = 0;
};

// Memory that the CPU and the GPU exchange: one block in two places and copies between them; on an integrated GPU
// one place that both see, and no copies.
class StagedBlock {
  public:
    StagedBlock() = default;
    StagedBlock(const Driver& driver, const Gpu& gpu, std::size_t bytes, const std::string& what);

    std::byte* data() const { return host_.data(); }
    DeviceAddress address() const { return address_; }
    std::size_t bytes() const { return host_.bytes(); }
    void upload(const Driver& driver, Stream stream, std::size_t bytes) const;
    void download(const Driver& driver, Stream stream) const;

  private:
    PinnedBlock host_;
    DeviceBlock device_;  // empty when the GPU sees host_
    DeviceAddress address_ = 0;
};

}  // namespace lightwam::cuda
