// SPDX-License-Identifier: Apache-2.0
#include "runtime/block.hpp"

#include <sys/mman.h>

#include "lightwam/policy.hpp"

namespace lightwam::runtime {
namespace {

constexpr std::size_t kHugePageWorth = std::size_t{4} << 20;

}  // namespace

Block::Block(std::size_t bytes, const std::string& what, Pages pages) : bytes_(bytes) {
    if (bytes == 0) return;
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        throw Error(ErrorKind::engine,
                    what + " needs " + std::to_string(bytes) + " bytes, which the system refused; free memory");
    if (pages == Pages::small) {
        ::madvise(data, bytes, MADV_NOHUGEPAGE);
    } else if (bytes >= kHugePageWorth) {
        ::madvise(data, bytes, MADV_HUGEPAGE);
    }
    data_ = static_cast<std::byte*>(data);
}

Block::~Block() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace lightwam::runtime
