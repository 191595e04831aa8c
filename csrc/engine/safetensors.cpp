// SPDX-License-Identifier: Apache-2.0
#include "engine/safetensors.hpp"

#include <algorithm>
#include <bit>

#include "engine/json.hpp"
#include "engine/refusal.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{16} << 20;

struct Placed {
    Tensor tensor;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

// The JSON text of the header.
std::string read_header(const InputFile& file, const Refusal& refuse) {
    const auto read = [&](std::uint64_t offset, std::size_t bytes, void* destination) {
        if (const int error = file.read(offset, bytes, static_cast<std::byte*>(destination)); error != 0)
            refuse(read_error_text(error));
    };
    if (file.size() < kLengthBytes)
        refuse("is " + std::to_string(file.size()) + " bytes long; expected a safetensors file");
    std::uint64_t length = 0;
    static_assert(sizeof(length) == kLengthBytes && std::endian::native == std::endian::little);
    read(0, kLengthBytes, &length);
    if (length > kMaxHeaderBytes)
        refuse("header length " + std::to_string(length) + " is over " + std::to_string(kMaxHeaderBytes) +
               " bytes; this is no engine file or it is corrupted");
    if (length > file.size() - kLengthBytes)
        refuse("is truncated: the header needs " + std::to_string(length) + " bytes, " +
               std::to_string(file.size() - kLengthBytes) + " are left");
    std::string text(static_cast<std::size_t>(length), '\0');
    read(kLengthBytes, text.size(), text.data());
    return text;
}

DType parse_dtype(const JsonValue* value, const std::string& where, const Refusal& refuse) {
    const std::string* name = value == nullptr ? nullptr : value->string();
    if (name == nullptr) refuse(where + ": key 'dtype' is missing or not a string");
    if (*name == "F32") return DType::f32;
    if (*name == "BF16") return DType::bf16;
    if (*name == "F16") return DType::f16;
    if (*name == "F8_E4M3") return DType::f8;
    if (*name == "I8") return DType::i8;
    refuse(where + ": dtype '" + *name + "' is unknown; expected F32, BF16, F16, F8_E4M3 or I8");
}

Placed parse_tensor(const std::string& name, const JsonValue& entry, std::uint64_t data_bytes, const Refusal& refuse) {
    const std::string where = "tensor '" + name + "'";
    const JsonValue::Object* members = entry.object();
    if (members == nullptr) refuse(where + " is " + entry.type_name() + "; expected an object");
    if (members->size() != 3) refuse(where + " has " + std::to_string(members->size()) + " keys; expected 3");
    Placed placed;
    placed.tensor.name = name;
    placed.tensor.dtype = parse_dtype(entry.find("dtype"), where, refuse);
    placed.tensor.shape = read_shape(entry.find("shape"), where, refuse);
    const std::int64_t count = element_count(placed.tensor.shape);
    const std::vector<std::int64_t> offsets = read_integers(entry.find("data_offsets"), where, "data_offsets", refuse);
    if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0])
        refuse(where + ": data_offsets must be [begin, end]");
    placed.begin = static_cast<std::uint64_t>(offsets[0]);
    placed.end = static_cast<std::uint64_t>(offsets[1]);
    placed.tensor.bytes = static_cast<std::size_t>(count) * dtype_bytes(placed.tensor.dtype);
    if (placed.end > data_bytes)
        refuse(where + " ends at byte " + std::to_string(placed.end) + ", the file's data at " +
               std::to_string(data_bytes) + "; the file is truncated or corrupted");
    if (placed.end - placed.begin != placed.tensor.bytes)
        refuse(where + " has " + std::to_string(placed.end - placed.begin) + " bytes; shape " +
               shape_text(placed.tensor.shape) + " needs " + std::to_string(placed.tensor.bytes));
    return placed;
}

std::string read_metadata(const JsonValue* metadata, const Refusal& refuse) {
    if (metadata == nullptr || metadata->object() == nullptr)
        refuse("has no '__metadata__'; a safetensors file, but not an engine file: run 'lightwam export'");
    const JsonValue* document = metadata->find("lightwam");
    if (document == nullptr || document->string() == nullptr)
        refuse("has no metadata entry 'lightwam'; a safetensors file, but not an engine file: run 'lightwam export'");
    return *document->string();
}

void refuse_gaps(std::vector<const Placed*> placed, std::uint64_t data_bytes, const Refusal& refuse) {
    std::sort(placed.begin(), placed.end(), [](const Placed* a, const Placed* b) { return a->begin < b->begin; });
    std::uint64_t end = 0;
    for (const Placed* tensor : placed) {
        if (tensor->begin != end)
            refuse("tensor '" + tensor->tensor.name + "' begins at byte " + std::to_string(tensor->begin) +
                   (tensor->begin < end ? " inside another tensor" : " after a hole") + "; expected " +
                   std::to_string(end));
        end = tensor->end;
    }
    if (end != data_bytes)
        refuse("has " + std::to_string(data_bytes - end) + " bytes after the last tensor; expected none");
}

}  // namespace

SafeTensors read_safetensors(const InputFile& file, const std::string& path) {
    const Refusal refuse(path);
    const std::string text = read_header(file, refuse);
    const std::uint64_t data_begin = kLengthBytes + text.size();
    const std::uint64_t data_bytes = file.size() - data_begin;
    const JsonValue header = parse_document(text, "the header", refuse);
    if (header.object() == nullptr) refuse(std::string("the header is ") + header.type_name() + "; expected an object");

    SafeTensors result;
    std::vector<Placed> placed;
    placed.reserve(header.object()->size());
    for (const auto& [name, entry] : *header.object())
        if (name != "__metadata__") placed.push_back(parse_tensor(name, entry, data_bytes, refuse));
    result.lightwam = read_metadata(header.find("__metadata__"), refuse);

    std::vector<const Placed*> pointers;
    for (const Placed& tensor : placed) pointers.push_back(&tensor);
    refuse_gaps(std::move(pointers), data_bytes, refuse);
    for (Placed& tensor : placed) {
        if ((data_begin + tensor.begin) % dtype_bytes(tensor.tensor.dtype) != 0)
            refuse("tensor '" + tensor.tensor.name + "' begins at byte " + std::to_string(data_begin + tensor.begin) +
                   " of the file; expected a multiple of its element size");
        tensor.tensor.offset = data_begin + tensor.begin;
        result.tensors.push_back(std::move(tensor.tensor));
    }
    return result;
}

}  // namespace lightwam::engine
