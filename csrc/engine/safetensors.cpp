// SPDX-License-Identifier: Apache-2.0
#include "engine/safetensors.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "engine/file_kind.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kMaxRead = std::size_t{1} << 30;  // the system moves at most 2 GiB a call
constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{16} << 20;

// The JSON text of the header.
std::string read_header(const InputFile& file) {
    const auto read = [&](std::uint64_t offset, std::size_t bytes, void* destination) {
        if (const int error = file.read(offset, bytes, static_cast<std::byte*>(destination)); error != 0)
            fail(read_error_text(error));
    };
    std::string head(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), kKindBytes)), '\0');
    read(0, head.size(), head.data());
    if (const std::string foreign = foreign_kind(head); !foreign.empty()) fail(foreign);
    if (file.size() < kLengthBytes)
        fail("is " + std::to_string(file.size()) + " bytes long; expected a safetensors file");
    std::uint64_t length = 0;
    static_assert(sizeof(length) == kLengthBytes && std::endian::native == std::endian::little);
    read(0, kLengthBytes, &length);
    if (length > kMaxHeaderBytes)
        fail("header length " + std::to_string(length) + " is over " + std::to_string(kMaxHeaderBytes) +
             " bytes; this is no engine file or it is corrupted");
    if (length > file.size() - kLengthBytes)
        fail("is truncated: the header needs " + std::to_string(length) + " bytes, " +
             std::to_string(file.size() - kLengthBytes) + " are left");
    std::string text(static_cast<std::size_t>(length), '\0');
    read(kLengthBytes, text.size(), text.data());
    return text;
}

DType read_dtype(const ObjectReader& reader) {
    const JsonValue* value = reader.find("dtype");
    const std::string* name = value == nullptr ? nullptr : value->string();
    if (name == nullptr) reader.fail("key 'dtype' is missing or not a string");
    for (const DTypeRow& row : kDTypes)
        if (row.stored != nullptr && *name == row.stored) return row.value;
    reader.fail("dtype '" + *name + "' is unknown; expected F32, BF16, F16, F8_E4M3 or I8");
}

// Its bytes lie in the file's data, which begin at `data_begin` and are `data_bytes` long.
Tensor read_tensor(const std::string& name, const JsonValue& entry, std::uint64_t data_begin,
                   std::uint64_t data_bytes) {
    const ObjectReader reader(entry, "tensor '" + name + "'");
    const std::size_t keys = reader.members().size();
    if (keys != 3) fail(reader.where() + " has " + std::to_string(keys) + " keys; expected 3");
    Tensor tensor;
    tensor.name = name;
    tensor.dtype = read_dtype(reader);
    tensor.shape = reader.shape();
    tensor.bytes = static_cast<std::size_t>(element_count(tensor.shape)) * dtype_bytes(tensor.dtype);
    const std::vector<std::int64_t> offsets = reader.integers("data_offsets");
    if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0])
        reader.fail("data_offsets must be [begin, end]");
    const auto bytes = static_cast<std::uint64_t>(offsets[1] - offsets[0]);
    if (static_cast<std::uint64_t>(offsets[1]) > data_bytes)
        fail(reader.where() + " ends at byte " + std::to_string(offsets[1]) + ", the file's data at " +
             std::to_string(data_bytes) + "; the file is truncated or corrupted");
    if (bytes != tensor.bytes)
        fail(reader.where() + " has " + std::to_string(bytes) + " bytes; shape " + shape_text(tensor.shape) +
             " needs " + std::to_string(tensor.bytes));
    tensor.offset = data_begin + static_cast<std::uint64_t>(offsets[0]);
    return tensor;
}

std::string read_metadata(const JsonValue* metadata) {
    if (metadata == nullptr || metadata->object() == nullptr)
        fail("has no '__metadata__'; a safetensors file, but not an engine file: run 'lightwam export'");
    const JsonValue* document = metadata->find("lightwam");
    if (document == nullptr || document->string() == nullptr)
        fail("has no metadata entry 'lightwam'; a safetensors file, but not an engine file: run 'lightwam export'");
    return *document->string();
}

void expect_no_gaps(const std::vector<Tensor>& tensors, std::uint64_t data_begin, std::uint64_t file_bytes) {
    std::vector<const Tensor*> ordered;
    for (const Tensor& tensor : tensors) ordered.push_back(&tensor);
    std::ranges::sort(ordered, {}, [](const Tensor* tensor) { return std::pair(tensor->offset, tensor->bytes); });
    std::uint64_t end = data_begin;
    for (const Tensor* tensor : ordered) {
        if (tensor->offset != end)
            fail("tensor '" + tensor->name + "' begins at byte " + std::to_string(tensor->offset - data_begin) +
                 (tensor->offset < end ? " inside another tensor" : " after a hole") + "; expected " +
                 std::to_string(end - data_begin));
        end += tensor->bytes;
    }
    if (end != file_bytes)
        fail("has " + std::to_string(file_bytes - end) + " bytes after the last tensor; expected none");
}

}  // namespace

InputFile::InputFile(const std::string& path) {
    if (path.find('\0') != std::string::npos) fail("the path holds a zero byte");
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) fail(std::string("cannot be opened: ") + std::strerror(errno));
    try {
        struct stat status{};
        if (::fstat(descriptor_, &status) != 0) fail(std::string("cannot be read: ") + std::strerror(errno));
        if (S_ISDIR(status.st_mode))
            fail(
                "is not an ordinary file but a folder; give an engine file (*.lwam), or 'lightwam export' a "
                "checkpoint");
        if (!S_ISREG(status.st_mode)) fail("is not an ordinary file");
        if (status.st_size <= 0) fail("is empty; fetch it again, or write it with 'lightwam export'");
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

SafeTensors read_safetensors(const InputFile& file) {
    const std::string text = read_header(file);
    const std::uint64_t data_begin = kLengthBytes + text.size();
    const JsonValue json = parse_document(text, "the header");
    const ObjectReader header(json, "the header");

    SafeTensors result;
    for (const auto& [name, entry] : header.members())
        if (name != "__metadata__")
            result.tensors.push_back(read_tensor(name, entry, data_begin, file.size() - data_begin));
    result.lightwam = read_metadata(header.find("__metadata__"));
    expect_no_gaps(result.tensors, data_begin, file.size());
    for (const Tensor& tensor : result.tensors)
        if (tensor.offset % dtype_bytes(tensor.dtype) != 0)
            fail("tensor '" + tensor.name + "' begins at byte " + std::to_string(tensor.offset) +
                 " of the file; expected a multiple of its element size");
    return result;
}

}  // namespace lightwam::engine
