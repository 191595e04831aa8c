// SPDX-License-Identifier: Apache-2.0
#include "cuda/memory.hpp"

#include <cstring>

namespace lightwam::cuda {
namespace {

std::string allocating(std::size_t bytes, const std::string& what) {
    return "allocating " + std::to_string(bytes) + " bytes for " + what;
}

}  // namespace

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
