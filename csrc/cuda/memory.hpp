// SPDX-License-Identifier: Apache-2.0
// Memory of the GPU. Made and destroyed with the GPU's context current.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/device.hpp"

namespace lightwam::cuda {

// Memory on the device. Not initialised.
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
