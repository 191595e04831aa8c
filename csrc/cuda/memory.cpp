// SPDX-License-Identifier: Apache-2.0
#include "cuda/memory.hpp"

#include <cstring>

namespace lightwam::cuda {
namespace {

std::string allocating(std::size_t bytes, const std::string& what) {
    return "allocating " + std::to_string(bytes) + " bytes for " + what;
}

}  // namespace

DeviceBlock::DeviceBlock(const Driver& driver, std::size_t bytes, const std::string& what) {
    if (bytes == 0) return;
    check(driver, driver.mem_alloc(&address_, bytes), allocating(bytes, what));
    driver_ = &driver;
    bytes_ = bytes;
}

DeviceBlock::~DeviceBlock() {
    if (driver_ != nullptr) driver_->mem_free(address_);
}

DeviceBlock& DeviceBlock::operator=(DeviceBlock&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

PinnedBlock::PinnedBlock(const Driver& driver, std::size_t bytes, bool mapped, const std::string& what) {
    if (bytes == 0) return;
    void* data = nullptr;
    check(driver, driver.mem_host_alloc(&data, bytes, mapped ? kHostAllocDeviceMap : 0), allocating(bytes, what));
    driver_ = &driver;
    data_ = static_cast<std::byte*>(data);
    bytes_ = bytes;
}

PinnedBlock::~PinnedBlock() {
    if (driver_ != nullptr) driver_->mem_free_host(data_);
}

PinnedBlock& PinnedBlock::operator=(PinnedBlock&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
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
