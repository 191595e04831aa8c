// SPDX-License-Identifier: Apache-2.0
//
// Normalisations, element by element and layout operations.
#include "rows.hpp"

#include "elementwise.hpp"
#include "isa/kernel_table.hpp"
#include "quantize.hpp"

namespace lightwam::cpu {

void run(const Execution& execution, const LayerNormArgs& args) noexcept {
    run_pieces(execution, execution.kernels->layer_norm, args, args.rows, args.columns);
}

void run(const Execution& execution, const RmsNormArgs& args) noexcept {
    run_pieces(execution, execution.kernels->rms_norm, args, args.rows, args.columns);
}

void run(const Execution& execution, const RmsNormRopeArgs& args) noexcept {
    run_pieces(execution, execution.kernels->rms_norm_rope, args, args.tokens, args.heads * args.head_width);
}

void run(const Execution& execution, const QuantizeRowsArgs& args) noexcept {
    run_pieces(execution, execution.kernels->quantize_rows, args, args.rows, args.columns);
}

void run(const Execution& execution, const MeanPoolArgs& args) noexcept {
    run_pieces(execution, execution.kernels->mean_pool, args, args.columns, args.rows);
}

void run(const Execution& execution, const AddArgs& args) noexcept {
    run_pieces(execution, execution.kernels->add, args, args.rows, args.columns);
}

void run(const Execution& execution, const ConcatArgs& args) noexcept {
    std::size_t columns = 0;
    for (std::size_t i = 0; i < args.count; ++i) columns += args.inputs[i].columns;
    run_pieces(execution, execution.kernels->concat, args, args.rows, columns);
}

void run(const Execution& execution, const ScaleShiftClampArgs& args) noexcept {
    run_pieces(execution, execution.kernels->scale_shift_clamp, args, args.rows, args.columns);
}

void run(const Execution& execution, const GripperRuleArgs& args) noexcept {
    run_pieces(execution, execution.kernels->gripper_rule, args, args.rows, args.columns);
}

void run(const Execution& execution, const CastArgs& args) noexcept {
    run_pieces(execution, execution.kernels->cast, args, args.count, 1);
}

void run(const Execution& execution, const NchwToNhwcArgs& args) noexcept {
    run_pieces(execution, execution.kernels->nchw_to_nhwc, args, args.positions, args.channels);
}

}  // namespace lightwam::cpu
