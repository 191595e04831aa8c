// SPDX-License-Identifier: Apache-2.0
//
// Element by element and layout operations.

void add(const AddArgs& a, std::size_t begin, std::size_t end) noexcept {
    const float sign = a.subtract ? -1.0F : 1.0F;
    with_types(a.a, a.y, [&](const auto* first, auto* y) {
        with_types(a.b, a.y, [&](const auto* second, auto*) {
            for (std::size_t r = begin; r < end; ++r) {
                const auto* p = first + (a.broadcast_a ? 0 : r * a.columns);
                const auto* q = second + (a.broadcast_b ? 0 : r * a.columns);
                for_vectors(a.columns, [&](std::size_t c, auto lanes) {
                    store(y + r * a.columns + c, load(p + c, lanes) + load(q + c, lanes) * sign, lanes);
                });
            }
        });
    });
}

void concat(const ConcatArgs& a, std::size_t begin, std::size_t end) noexcept {
    std::size_t columns = 0;
    for (std::size_t i = 0; i < a.count; ++i) columns += a.inputs[i].columns;
    std::size_t offset = 0;
    for (std::size_t i = 0; i < a.count; ++i) {
        const std::size_t width = a.inputs[i].columns;
        with_types(a.inputs[i].x, a.y, [&](const auto* x, auto* y) {
            for (std::size_t r = begin; r < end; ++r) {
                for_vectors(width, [&](std::size_t c, auto lanes) {
                    store(y + r * columns + offset + c, load(x + r * width + c, lanes), lanes);
                });
            }
        });
        offset += width;
    }
}

void scale_shift_clamp(const ScaleShiftClampArgs& a, std::size_t begin, std::size_t end) noexcept {
    const vf low = splat(a.minimum);
    const vf high = splat(a.maximum);
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for (std::size_t r = begin; r < end; ++r) {
            for_vectors(a.columns, [&](std::size_t c, auto lanes) {
                vf v = load(x + r * a.columns + c, lanes) * load(a.scale + c, lanes) + load(a.shift + c, lanes);
                v = at_most(at_least(v, low), high);
                store(y + r * a.columns + c, v, lanes);
            });
        }
    });
}

void gripper_rule(const GripperRuleArgs& a, std::size_t begin, std::size_t end) noexcept {
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for (std::size_t at = begin * a.columns; at < end * a.columns; ++at) {
            float v = widen(x[at]);
            if (at % a.columns == a.column) {
                const float g = -(2.0F * v - 1.0F);
                v = g > 0.0F ? 1.0F : g < 0.0F ? -1.0F : g;
            }
            convert(v, y[at]);
        }
    });
}

void cast(const CastArgs& a, std::size_t begin, std::size_t end) noexcept {
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for_vectors(end - begin,
                    [&](std::size_t i, auto lanes) { store(y + begin + i, load(x + begin + i, lanes), lanes); });
    });
}

void nchw_to_nhwc(const NchwToNhwcArgs& a, std::size_t begin, std::size_t end) noexcept {
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for (std::size_t p = begin; p < end; ++p) {
            for (std::size_t c = 0; c < a.channels; ++c) convert(widen(x[c * a.positions + p]), y[p * a.channels + c]);
        }
    });
}
