// SPDX-License-Identifier: Apache-2.0
//
// Rows of f32 or bf16 to 8 bits.

// Smallest and largest of the row and zero, and a sum that is NaN if the row holds NaN or infinity, else 0.
struct RowRange {
    float low;
    float high;
    float poison;
};
template <class T>
LIGHTWAM_INLINE RowRange row_range(const T* x, std::size_t n) {
    vf low{};
    vf high{};
    vf poison{};
    for_vectors(n, [&](std::size_t i, auto lanes) {
        const vf v = load(x + i, lanes);  // lanes past the end read as 0, which both bounds include
        low = at_most(low, v);
        high = at_least(high, v);
        poison = poison + v * 0.0F;
    });
    return {-maximum_of_lanes(-low), maximum_of_lanes(high), sum_of_lanes(poison)};
}

// Rounded and held to what 8 bits carry; NaN becomes -128.
LIGHTWAM_INLINE vf to_i8_range(vf v) { return at_most(at_least(splat(-128.0F), v), splat(127.0F)); }

template <class T>
LIGHTWAM_INLINE void quantize_row(const QuantizeRowsArgs& a, std::size_t r) {
    const T* x = static_cast<const T*>(a.x.data) + r * a.columns;
    constexpr float kSmallestNormal = 1.17549435e-38F;
    const RowRange range = row_range(x, a.columns);
    float scale = (range.high - range.low) / 255.0F;
    if (scale < kSmallestNormal) scale = 1.0F;
    const float inverse = 1.0F / scale;
    const float zero = to_i8_range(to_whole(splat(-128.0F - range.low * inverse)))[0];
    std::int8_t* y = a.y + r * a.columns;
    for_vectors(a.columns, [&](std::size_t c, auto lanes) {
        store(y + c, to_i8_range(to_whole(load(x + c, lanes) * inverse) + zero), lanes);
    });
    a.scale[r] = scale + range.poison;
    a.zero[r] = static_cast<std::int32_t>(zero);
}

void quantize_rows(const QuantizeRowsArgs& a, std::size_t begin, std::size_t end) noexcept {
    for (std::size_t r = begin; r < end; ++r) {
        if (a.x.dtype == DType::f32) {
            quantize_row<float>(a, r);
        } else {
            quantize_row<bf16_bits>(a, r);
        }
    }
}
