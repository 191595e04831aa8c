// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_file.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/checksum.hpp"
#include "engine/graph_reader.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

// The document's "checksums": tensor name -> eight hexadecimal digits. A file without them is taken as it is.
void read_checksums(const ObjectReader& document, std::vector<Tensor>& tensors) {
    if (document.find("checksums") == nullptr) return;
    const ObjectReader checksums = document.object("checksums", "'checksums'");
    std::unordered_map<std::string_view, const std::string*> texts;
    for (const auto& [name, value] : checksums.members()) texts.emplace(name, value.string());
    for (Tensor& tensor : tensors) {
        const auto entry = texts.find(tensor.name);
        if (entry == texts.end() || entry->second == nullptr)
            fail("'checksums' has no text for tensor '" + tensor.name + "'; export the policy again");
        const std::string& text = *entry->second;
        std::uint32_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
        if (error != std::errc() || end != text.data() + text.size() || text.size() != 8)
            fail("'checksums' has '" + text + "' for tensor '" + tensor.name + "'; expected eight hexadecimal digits");
        tensor.checksum = value;
        texts.erase(entry);
    }
    if (!texts.empty())
        fail("'checksums' names the tensor '" + std::string(texts.begin()->first) + "', which is not there");
}

void mark_weight_scales(const Program& program, std::vector<Tensor>& tensors) {
    for (const Op& op : program.ops)
        if (const std::size_t index = find_role(op.constants, "weight_scale"); index != npos)
            tensors[index].positive = true;
}

// True when an element is NaN or infinite: all bits of its exponent are set.
template <typename Word>
bool has_non_finite(const std::byte* data, std::size_t bytes, Word exponent) noexcept {
    constexpr std::size_t kChunk = 4096;
    const std::size_t count = bytes / sizeof(Word);
    Word words[kChunk];
    for (std::size_t at = 0; at < count; at += kChunk) {
        const std::size_t length = std::min(kChunk, count - at);
        std::memcpy(words, data + at * sizeof(Word), length * sizeof(Word));
        Word found = 0;
        for (std::size_t i = 0; i < length; ++i) found |= static_cast<Word>((words[i] & exponent) == exponent);
        if (found != 0) return true;
    }
    return false;
}

bool all_finite(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept {
    if (tensor.dtype == DType::f32) return !has_non_finite<std::uint32_t>(data, bytes, 0x7F800000U);
    if (tensor.dtype == DType::f8) return !has_non_finite<std::uint8_t>(data, bytes, 0x7FU);  // e4m3: NaN only
    if (tensor.dtype == DType::f16) return !has_non_finite<std::uint16_t>(data, bytes, 0x7C00U);
    return tensor.dtype != DType::bf16 || !has_non_finite<std::uint16_t>(data, bytes, 0x7F80U);
}

bool all_in_range(const Tensor& tensor, const std::byte* data, std::size_t bytes) noexcept {
    if (tensor.dtype == DType::i8) return tensor.opaque || std::memchr(data, 0x80, bytes) == nullptr;
    if (!tensor.positive || tensor.dtype != DType::f32) return true;
    for (std::size_t at = 0; at + sizeof(float) <= bytes; at += sizeof(float)) {
        float value;
        std::memcpy(&value, data + at, sizeof value);
        if (!(value > 0.0F)) return false;
    }
    return true;
}

std::string hexadecimal(std::uint32_t value) {
    char text[9];
    std::snprintf(text, sizeof(text), "%08x", static_cast<unsigned>(value));
    return text;
}

}  // namespace

EngineFile::EngineFile(const std::string& path, std::function<void()> while_opening)
    : reporter_(path), while_opening_(std::move(while_opening)), file_(reporter_([&] { return InputFile(path); })) {
    reporter_([&] {
        SafeTensors contents = read_safetensors(file_);
        document_ = std::move(contents.lightwam);
        graph_.tensors = std::move(contents.tensors);
        opening();
        const JsonValue document = parse_document(document_, "metadata 'lightwam'");
        opening();
        read_graph(document, graph_);
        opening();
        if (const JsonValue* gpu = document.find("gpu"); gpu != nullptr) {
            launch_plan_ = read_launch_plan(*gpu, graph_);
            check_launch_plan(*launch_plan_, graph_);
        }
        read_checksums(ObjectReader(document, "the document"), graph_.tensors);
    });
    mark_weight_scales(graph_.set_instruction, graph_.tensors);
    mark_weight_scales(graph_.act, graph_.tensors);
}

PieceReport EngineFile::read(const Tensor& tensor, std::size_t begin, std::size_t bytes,
                             std::byte* destination) const noexcept {
    PieceReport report;
    report.read_error = file_.read(tensor.offset + begin, bytes, destination);
    if (report.read_error != 0) return report;
    report.bytes = bytes;
    report.finite = all_finite(tensor, destination, bytes);
    report.in_range = all_in_range(tensor, destination, bytes);
    if (tensor.checksum) report.crc32 = crc32(destination, bytes);
    return report;
}

void EngineFile::check_numbers(const Tensor& tensor, std::span<const PieceReport> pieces) const {
    opening();
    reporter_([&] {
        JoinedChecksum found;
        for (const PieceReport& piece : pieces) {
            if (piece.read_error != 0) fail(read_error_text(piece.read_error));
            if (!piece.finite) fail("tensor '" + tensor.name + "' holds NaN or infinity");
            if (!piece.in_range)
                fail("tensor '" + tensor.name +
                     (tensor.dtype == DType::i8 ? "' holds -128; expected -127 to 127"
                                                : "' holds a scale that is not positive"));
            found.add(piece.crc32, piece.bytes);
        }
        if (tensor.checksum && *tensor.checksum != found.value())
            fail("tensor '" + tensor.name + "' is damaged: its checksum is " + hexadecimal(found.value()) +
                 "; expected " + hexadecimal(*tensor.checksum) + "; fetch the file again");
    });
}

void EngineFile::check_all_numbers() const {
    std::vector<std::byte> buffer(kPieceBytes);
    std::vector<PieceReport> pieces;
    for (const Tensor& tensor : graph_.tensors) {
        pieces.clear();
        for (std::size_t begin = 0; begin < tensor.bytes; begin += kPieceBytes) {
            if (begin % (kPieceBytes * 256) == 0) opening();
            pieces.push_back(read(tensor, begin, std::min(kPieceBytes, tensor.bytes - begin), buffer.data()));
        }
        check_numbers(tensor, pieces);
    }
}

}  // namespace lightwam::engine
