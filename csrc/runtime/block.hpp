// SPDX-License-Identifier: Apache-2.0
// A block of zeroed memory straight from the system: page-aligned, committed page by page when touched.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace lightwam::runtime {

class Block {
  public:
    // small: no huge pages, for blocks of which only parts are touched.
    enum class Pages { any, small };

    Block() = default;
    // Throws Error (engine) when the system has not that much memory; `what` names the block in the message.
    Block(std::size_t bytes, const std::string& what, Pages pages = Pages::any);
    ~Block();
    Block(Block&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Block& operator=(Block&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

  private:
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

}  // namespace lightwam::runtime
