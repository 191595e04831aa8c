// SPDX-License-Identifier: Apache-2.0
// Memory of the GPU. Made and destroyed with the GPU's context current.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "cuda/device.hpp"

namespace lightwam::cuda {

// Memory on the device. Not initialised.
class DeviceBlock {
  public:
    DeviceBlock() = default;
    DeviceBlock(const Driver& driver, std::size_t bytes, const std::string& what);
    ~DeviceBlock();
    DeviceBlock(DeviceBlock&& other) noexcept { *this = std::move(other); }
    DeviceBlock& operator=(DeviceBlock&& other) noexcept;

    DeviceAddress address() const { return address_; }
    std::size_t bytes() const { return bytes_; }

  private:
    const Driver* driver_ = nullptr;
    DeviceAddress address_ = 0;
    std::size_t bytes_ = 0;
};

// Page-locked memory of the processor, which the GPU copies without help.
class PinnedBlock {
  public:
    PinnedBlock() = default;
    PinnedBlock(const Driver& driver, std::size_t bytes, bool mapped, const std::string& what);
    ~PinnedBlock();
    PinnedBlock(PinnedBlock&& other) noexcept { *this = std::move(other); }
    PinnedBlock& operator=(PinnedBlock&& other) noexcept;

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

  private:
    const Driver* driver_ = nullptr;
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

// Memory that the processor and the GPU exchange: one block in two places and copies between them; on an integrated GPU
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
