// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_file.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/graph_reader.hpp"
#include "engine/json_reader.hpp"

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
    }
}

void mark_weight_scales(const Program& program, std::vector<Tensor>& tensors) {
    for (const Op& op : program.ops)
        if (const std::size_t index = find_role(op.constants, "weight_scale"); index != npos)
            tensors[index].positive = true;
}

}  // namespace

EngineFile::EngineFile(const std::string& path) : reporter_(path), file_(reporter_([&] { return InputFile(path); })) {
    reporter_([&] {
        SafeTensors contents = read_safetensors(file_);
        document_ = std::move(contents.lightwam);
        graph_.tensors = std::move(contents.tensors);
        const JsonValue document = parse_document(document_, "metadata 'lightwam'");
        read_graph(document, graph_);
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
    if (const int error = file_.read(tensor.offset + begin, bytes, destination); error != 0) {
        PieceReport report;
        report.read_error = error;
        return report;
    }
    return examine(tensor, destination, bytes);
}

void EngineFile::check_numbers(const Tensor& tensor, std::span<const PieceReport> pieces) const {
    reporter_([&] { engine::check_numbers(tensor, pieces); });
}

void EngineFile::check_all_numbers() const {
    std::vector<std::byte> buffer(kPieceBytes);
    std::vector<PieceReport> pieces;
    for (const Tensor& tensor : graph_.tensors) {
        pieces.clear();
        for (std::size_t begin = 0; begin < tensor.bytes; begin += kPieceBytes)
            pieces.push_back(read(tensor, begin, std::min(kPieceBytes, tensor.bytes - begin), buffer.data()));
        check_numbers(tensor, pieces);
    }
}

}  // namespace lightwam::engine
