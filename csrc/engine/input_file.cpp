// SPDX-License-Identifier: Apache-2.0
#include "engine/input_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/error_reporter.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kMaxRead = std::size_t{1} << 30;  // the system moves at most 2 GiB a call

}  // namespace

InputFile::InputFile(const std::string& path) {
    if (path.find('\0') != std::string::npos) fail("the path holds a zero byte");
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) fail(std::string("cannot be opened: ") + std::strerror(errno));
    try {
        struct stat status{};
        if (::fstat(descriptor_, &status) != 0) fail(std::string("cannot be read: ") + std::strerror(errno));
        if (!S_ISREG(status.st_mode)) fail("is not an ordinary file");
        if (status.st_size <= 0) fail("is empty; expected a safetensors file written by 'lightwam export'");
        size_ = static_cast<std::uint64_t>(status.st_size);
    } catch (...) {
        ::close(descriptor_);
        throw;
    }
    ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);  // a larger read-ahead when the file is not cached yet
}

InputFile::~InputFile() { ::close(descriptor_); }

int InputFile::read(std::uint64_t offset, std::size_t bytes, std::byte* destination) const noexcept {
    while (bytes > 0) {
        const ssize_t done = ::pread(descriptor_, destination, std::min(bytes, kMaxRead), static_cast<off_t>(offset));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        if (done == 0) return kEnded;
        offset += static_cast<std::uint64_t>(done);
        destination += done;
        bytes -= static_cast<std::size_t>(done);
    }
    return 0;
}

std::string read_error_text(int error) {
    if (error == InputFile::kEnded) return "became shorter while it was read; fetch or export it again";
    return std::string("cannot be read: ") + std::strerror(error);
}

}  // namespace lightwam::engine
