// SPDX-License-Identifier: Apache-2.0
// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace lightwam::engine {

class MappedFile {
  public:
    // Throws lightwam::Error (engine) when the file cannot be opened or mapped, or is no ordinary file.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }
    // Tells the system that these pages are not needed any more; they stay readable.
    void drop(const std::byte* begin, std::size_t size) const;

  private:
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace lightwam::engine
