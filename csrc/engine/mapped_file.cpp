// SPDX-License-Identifier: Apache-2.0
#include "engine/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "lightwam/policy.hpp"

namespace lightwam::engine {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& why) {
    throw Error(ErrorKind::engine, "engine file '" + path + "': " + why);
}

// Closes the descriptor when the scope ends; a mapping outlives it.
struct Descriptor {
    int value;
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
    if (path.find('\0') != std::string::npos) fail(path.c_str(), "the path holds a zero byte");
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.value < 0) fail(path, std::string("cannot be opened: ") + std::strerror(errno));
    struct stat status{};
    if (::fstat(file.value, &status) != 0) fail(path, std::string("cannot be read: ") + std::strerror(errno));
    if (!S_ISREG(status.st_mode)) fail(path, "is not an ordinary file");
    if (status.st_size <= 0) fail(path, "is empty; expected a safetensors file written by 'lightwam export'");
    size_ = static_cast<std::size_t>(status.st_size);
    void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.value, 0);
    if (mapping == MAP_FAILED) fail(path, std::string("cannot be mapped: ") + std::strerror(errno));
    data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void MappedFile::drop(const std::byte* begin, std::size_t size) const {
    const std::uintptr_t page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
    const std::uintptr_t last = (reinterpret_cast<std::uintptr_t>(begin) + size) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace lightwam::engine
