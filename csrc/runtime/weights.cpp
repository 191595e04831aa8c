// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights.hpp"

#include <algorithm>

#include "runtime/half.hpp"

namespace lightwam::runtime {
namespace {

// Formats that become one twice as wide before they are packed.
bool is_widened(const engine::Tensor& tensor) {
    return tensor.dtype == engine::DType::f16 || tensor.dtype == engine::DType::f8;
}

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;  // of a constant that is not packed
constexpr std::size_t kBatchPieces = 256;                    // a thread, between two looks whether to go on

std::size_t aligned(std::size_t bytes) {
    return (bytes + engine::kAlignment - 1) / engine::kAlignment * engine::kAlignment;
}

}  // namespace

const std::byte* Weights::find(const Key& key, const cpu::WeightSource& shape) {
    if (loaded_) {
        const auto found = entries_.find(key);
        if (found == entries_.end()) throw Error(ErrorKind::internal, "a weight was not collected before loading");
        return block_.data() + found->second.offset;
    }
    entries_.emplace(key, Entry{shape, 0});
    return nullptr;
}

// Part of a tensor: what a thread reads, checks and packs at a time.
struct Weights::Piece {
    const Entry* entry = nullptr;  // null: no entry has the tensor, it is only checked
    bool packed = false;
    std::size_t tensor = 0;
    std::size_t index = 0;  // of cpu::weight_piece
    std::size_t begin = 0;  // byte of the tensor
    std::size_t bytes = 0;
    engine::PieceReport report;
    std::size_t number = 0;  // of all pieces, as they are cut
};

void Weights::place(const engine::EngineFile& file) {
    const std::vector<engine::Tensor>& tensors = file.graph().tensors;
    std::size_t total = 0;
    for (auto& [key, entry] : entries_) {
        entry.offset = total;
        total += std::get<1>(key) ? aligned(cpu::packed_bytes(kernels_, entry.shape))
                                  : aligned(tensors[std::get<0>(key)].bytes);
    }
    if (total > engine::kMaxBlockBytes)
        throw Error(ErrorKind::engine, "engine '" + file.graph().name + "': its packed weights need " +
                                           std::to_string(total) + " bytes; expected at most " +
                                           std::to_string(engine::kMaxBlockBytes));
    block_ = Block(total, "the packed weights");
}

// All of the file: every entry's tensor, and the tensors that no entry has.
std::vector<Weights::Piece> Weights::cut(const engine::EngineFile& file) const {
    const std::vector<engine::Tensor>& tensors = file.graph().tensors;
    std::vector<Piece> pieces;
    const auto cut_bytes = [&](const Entry* entry, std::size_t tensor) {
        for (std::size_t begin = 0; begin < tensors[tensor].bytes; begin += kPieceBytes)
            pieces.push_back(
                {entry, false, tensor, 0, begin, std::min(kPieceBytes, tensors[tensor].bytes - begin), {}});
    };
    std::vector<bool> wanted(tensors.size(), false);
    for (const auto& [key, entry] : entries_) {
        const std::size_t tensor = std::get<0>(key);
        wanted[tensor] = true;
        if (!std::get<1>(key)) {
            cut_bytes(&entry, tensor);
            continue;
        }
        const std::size_t row_bytes = tensors[tensor].bytes / (entry.shape.groups * entry.shape.rows);
        const std::size_t count = cpu::piece_count(kernels_, entry.shape);
        for (std::size_t index = 0; index < count; ++index) {
            const cpu::WeightPiece piece = cpu::weight_piece(kernels_, entry.shape, index);
            pieces.push_back({&entry, true, tensor, index, piece.first_row * row_bytes, piece.rows * row_bytes, {}});
        }
    }
    for (std::size_t tensor = 0; tensor < tensors.size(); ++tensor)
        if (!wanted[tensor]) cut_bytes(nullptr, tensor);
    for (std::size_t number = 0; number < pieces.size(); ++number) pieces[number].number = number;
    return pieces;
}

void Weights::load(const engine::EngineFile& file, cpu::ThreadPool& pool) {
    const std::vector<engine::Tensor>& tensors = file.graph().tensors;
    place(file);
    std::vector<Piece> pieces = cut(file);
    // In the order of the file, which the system reads ahead; the pieces of an entry stay in order.
    std::ranges::sort(pieces, {}, [&](const Piece& p) { return std::pair(tensors[p.tensor].offset, p.number); });
    std::size_t largest = 0;
    for (const Piece& piece : pieces)
        largest = std::max(largest, aligned(piece.bytes) + (is_widened(tensors[piece.tensor]) ? 2 * piece.bytes : 0));
    largest = aligned(largest);
    // One buffer a thread; a copied constant is read to where it stays.
    const Block buffers(largest * static_cast<std::size_t>(pool.threads()), "the buffers to load the weights");
    const auto load_piece = [&](std::size_t i, int thread) {
        Piece& piece = pieces[i];
        const bool direct = piece.entry != nullptr && !piece.packed;
        std::byte* const buffer = buffers.data() + largest * static_cast<std::size_t>(thread);
        std::byte* const data = direct ? block_.data() + piece.entry->offset + piece.begin : buffer;
        piece.report = file.read(tensors[piece.tensor], piece.begin, piece.bytes, data);
        if (!piece.packed || piece.report.read_error != 0) return;
        const std::byte* rows = data;
        if (is_widened(tensors[piece.tensor])) {
            std::byte* const wide = buffer + aligned(piece.bytes);
            if (tensors[piece.tensor].dtype == engine::DType::f16)
                widen_halves(data, piece.bytes / 2, reinterpret_cast<float*>(wide));
            else
                cpu::widen_f8(data, piece.bytes, reinterpret_cast<cpu::bf16_bits*>(wide));
            rows = wide;
        }
        cpu::pack_piece(kernels_, piece.entry->shape, piece.index, rows, block_.data() + piece.entry->offset);
    };
    const std::size_t batch = kBatchPieces * static_cast<std::size_t>(pool.threads());
    for (std::size_t first = 0; first < pieces.size(); first += batch) {
        file.opening();
        pool.parallel_for(std::min(batch, pieces.size() - first),
                          [&](std::size_t i, int thread) { load_piece(first + i, thread); });
    }
    check(file, pieces);
    loaded_ = true;
}

// Each run of pieces of one tensor for one entry is that whole tensor.
void Weights::check(const engine::EngineFile& file, const std::vector<Piece>& pieces) {
    std::vector<engine::PieceReport> reports;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        reports.push_back(pieces[i].report);
        const bool last = i + 1 == pieces.size() || pieces[i + 1].tensor != pieces[i].tensor ||
                          pieces[i + 1].entry != pieces[i].entry;
        if (!last) continue;
        file.check_numbers(file.graph().tensors[pieces[i].tensor], reports);
        reports.clear();
    }
}

}  // namespace lightwam::runtime
