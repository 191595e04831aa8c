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
    constexpr std::size_t kSideBySide = 4;  // so that one step need not wait for the one before
    vf low[kSideBySide] = {};
    vf high[kSideBySide] = {};
    vf poison[kSideBySide] = {};
    const auto include = [&](std::size_t j, vf v) __attribute__((always_inline)) {
        low[j] = at_most(low[j], v);
        high[j] = at_least(high[j], v);
        poison[j] = poison[j] + v * 0.0F;
    };
    std::size_t i = 0;
    for (; i + kSideBySide * kLanes <= n; i += kSideBySide * kLanes) {
#pragma GCC unroll 4
        for (std::size_t j = 0; j < kSideBySide; ++j) include(j, load(x + i + j * kLanes));
    }
    // Lanes past the end read as 0, which both bounds include.
    for_vectors(n - i, [&](std::size_t c, auto lanes) { include(0, load(x + i + c, lanes)); });
    for (std::size_t j = 1; j < kSideBySide; ++j) {
        low[0] = at_most(low[0], low[j]);
        high[0] = at_least(high[0], high[j]);
        poison[0] = poison[0] + poison[j];
    }
    return {-maximum_of_lanes(-low[0]), maximum_of_lanes(high[0]), sum_of_lanes(poison[0])};
}

// Rounded and held to what 8 bits carry; NaN becomes -128.
LIGHTWAM_INLINE vf to_i8_range(vf v) { return at_most(at_least(splat(-128.0F), v), splat(127.0F)); }

// round(quotient) + zero, held to what 8 bits carry. What NaN becomes does not matter: its row's scale is not finite.
#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE __m512i steps_of(vf quotient, std::int32_t zero) {
    return _mm512_add_epi32(_mm512_cvtps_epi32(quotient), _mm512_set1_epi32(zero));
}
LIGHTWAM_INLINE void store_quantised(std::int8_t* y, vf quotient, std::int32_t zero, Whole) {
    store_as(y, _mm512_cvtsepi32_epi8(steps_of(quotient, zero)));
}
LIGHTWAM_INLINE void store_quantised(std::int8_t* y, vf quotient, std::int32_t zero, Part part) {
    _mm512_mask_cvtsepi32_storeu_epi8(y, first_lanes(part.count), steps_of(quotient, zero));
}
#else
template <class L>
LIGHTWAM_INLINE void store_quantised(std::int8_t* y, vf quotient, std::int32_t zero, L lanes) {
    store(y, to_i8_range(to_whole(quotient) + static_cast<float>(zero)), lanes);
}
#endif

template <class T>
LIGHTWAM_INLINE void quantize_row(const QuantizeRowsArgs& a, std::size_t r) {
    const T* x = static_cast<const T*>(a.x.data) + r * a.columns;
    constexpr float kSmallestNormal = 1.17549435e-38F;
    const RowRange range = row_range(x, a.columns);
    float scale = (range.high - range.low) / 255.0F;
    if (scale < kSmallestNormal) scale = 1.0F;
    const float inverse = 1.0F / scale;
    const auto zero = static_cast<std::int32_t>(to_i8_range(to_whole(splat(-128.0F - range.low * inverse)))[0]);
    std::int8_t* y = a.y + r * a.columns;
    for_vectors(a.columns,
                [&](std::size_t c, auto lanes) { store_quantised(y + c, load(x + c, lanes) * inverse, zero, lanes); });
    a.scale[r] = scale + range.poison;
    a.zero[r] = zero;
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
