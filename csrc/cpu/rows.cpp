// SPDX-License-Identifier: Apache-2.0
//
// Normalisations, element by element and layout operations: the row kernels of engine/ops.def.
#include "rows.hpp"

#include "elementwise.hpp"
#include "isa/kernel_table.hpp"
#include "quantize.hpp"

namespace lightwam::cpu {
namespace {

std::size_t columns_of(const ConcatArgs& a) noexcept {
    std::size_t columns = 0;
    for (std::size_t i = 0; i < a.count; ++i) columns += a.inputs[i].columns;
    return columns;
}

}  // namespace

#define LIGHTWAM_ROW_KERNEL(name, arguments, count, width)               \
    void run(const Execution& execution, const arguments& a) noexcept {  \
        run_pieces(execution, execution.kernels->name, a, count, width); \
    }
#include "engine/ops.def"

}  // namespace lightwam::cpu
