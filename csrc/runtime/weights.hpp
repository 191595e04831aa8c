// SPDX-License-Identifier: Apache-2.0
// The constants of a policy in the form the kernels read: weights packed, everything else copied, each once.
#pragma once

#include <cstddef>
#include <map>
#include <tuple>
#include <vector>

#include "cpu/cpu.hpp"
#include "engine/engine_file.hpp"
#include "runtime/block.hpp"

namespace lightwam::runtime {

// Used in two passes over the same ops: before load() the look-ups note what is wanted and return null,
// after load() they return the data. So one code both collects the weights and binds them.
class Weights {
  public:
    explicit Weights(const cpu::KernelTable& kernels) : kernels_(kernels) {}

    // `shape` as the kernels see it: an f16 tensor is f32 there, an f8 one bf16: widened before it is packed.
    const std::byte* packed(std::size_t tensor, const cpu::WeightSource& shape) {
        return find({tensor, true, static_cast<int>(shape.compute), shape.groups, shape.rows, shape.taps, shape.form},
                    shape);
    }
    // The tensor as it stands in the file, 64-byte aligned.
    const std::byte* raw(std::size_t tensor) { return find({tensor, false, 0, 0, 0, 0, cpu::ConvForm::direct}, {}); }

    // Reads every constant of the file once, checks its numbers (EngineFile::check_numbers), and packs or copies those
    // wanted so far into one block. Throws Error (engine).
    void load(const engine::EngineFile& file, cpu::ThreadPool& pool);

    std::size_t bytes() const { return block_.bytes(); }

  private:
    using Key = std::tuple<std::size_t, bool, int, std::size_t, std::size_t, std::size_t, cpu::ConvForm>;
    struct Entry {
        cpu::WeightSource shape;
        std::size_t offset = 0;
    };
    struct Piece;

    void place(const engine::EngineFile& file);
    std::vector<Piece> cut(const engine::EngineFile& file) const;
    static void check(const engine::EngineFile& file, const std::vector<Piece>& pieces);
    const std::byte* find(const Key& key, const cpu::WeightSource& shape);

    const cpu::KernelTable& kernels_;
    std::map<Key, Entry> entries_;  // ordered by tensor
    Block block_;
    bool loaded_ = false;
};

}  // namespace lightwam::runtime
