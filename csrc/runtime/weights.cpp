// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights.hpp"

#include <cstring>

namespace lightwam::runtime {
namespace {

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

void Weights::load(const engine::EngineFile& file, cpu::ThreadPool& pool) {
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
    for (auto& [key, entry] : entries_) {
        const engine::Tensor& tensor = tensors[std::get<0>(key)];
        std::byte* destination = block_.data() + entry.offset;
        if (std::get<1>(key)) {
            entry.shape.data = tensor.data;
            cpu::pack(kernels_, pool, entry.shape, destination);
            entry.shape.data = nullptr;
        } else {
            std::memcpy(destination, tensor.data, tensor.bytes);
        }
        file.drop(tensor);
    }
    loaded_ = true;
}

}  // namespace lightwam::runtime
