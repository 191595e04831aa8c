// SPDX-License-Identifier: Apache-2.0
// Which rows of an instruction are worth computing. Of the context's L rows an instruction uses the first few, and one
// zero row for all others; attention reads the keys below key_count alone. What comes row by row from the context and
// goes to attention alone is therefore computed, and its memory touched, for those rows only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::runtime {

// Of set_instruction: flags of its ops and values, true where the rows from key_count on are never read.
struct InstructionRows {
    explicit InstructionRows(const engine::Graph& graph);

    // Bytes of the cache block that an instruction of which `rows` of the context's rows are in use touches.
    std::size_t bytes(const engine::Graph& graph, std::int64_t rows) const;

    std::vector<bool> ops;
    std::vector<bool> values;
};

// How many of `all` leading rows the flagged ops compute. Without flags every op computes all.
struct RowsInUse {
    const std::vector<bool>* ops = nullptr;
    std::int64_t used = 1;
    std::int64_t all = 1;
};

}  // namespace lightwam::runtime
