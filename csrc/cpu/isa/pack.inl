// SPDX-License-Identifier: Apache-2.0
//
// Packing of panels (layout: gemm.inl), from rows that become columns of the panel or from rows that are its depths.

// Where (depth k, column n) stands in a panel of `width` columns.
LIGHTWAM_INLINE std::size_t panel_at(const float*, std::size_t k, std::size_t n, std::size_t width) {
    return k * width + n;
}
LIGHTWAM_INLINE std::size_t panel_at(const bf16_bits*, std::size_t k, std::size_t n, std::size_t width) {
    return (k / 2 * width + n) * 2 + k % 2;
}
LIGHTWAM_INLINE std::size_t panel_at(const std::int8_t*, std::size_t k, std::size_t n, std::size_t width) {
    return (k / 4 * width + n) * 4 + k % 4;
}
LIGHTWAM_INLINE std::size_t padded_depth(const float*, std::size_t depth) { return depth; }
LIGHTWAM_INLINE std::size_t padded_depth(const bf16_bits*, std::size_t depth) { return (depth + 1) / 2 * 2; }
LIGHTWAM_INLINE std::size_t padded_depth(const std::int8_t*, std::size_t depth) { return (depth + 3) / 4 * 4; }

#if LIGHTWAM_VECTOR_BYTES == 64
// m[i] lane j <-> m[j] lane i.
LIGHTWAM_INLINE void transpose(__m512i (&m)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int half = 0; half < 16; half += 8) {
        for (int i = 0; i < 4; ++i) {
            t[half + i] = _mm512_shuffle_i32x4(m[half + i], m[half + i + 4], 0x88);
            t[half + i + 4] = _mm512_shuffle_i32x4(m[half + i], m[half + i + 4], 0xdd);
        }
    }
    for (int i = 0; i < 8; ++i) {
        m[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        m[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

LIGHTWAM_INLINE __m512i load_lanes(const float* p, const float*) { return reinterpret_cast<__m512i>(load(p)); }
LIGHTWAM_INLINE __m512i load_lanes(const bf16_bits* p, const float*) { return reinterpret_cast<__m512i>(load(p)); }
LIGHTWAM_INLINE __m512i load_lanes(const bf16_bits* p, const bf16_bits*) { return _mm512_loadu_si512(p); }
LIGHTWAM_INLINE __m512i load_lanes(const std::int8_t* p, const std::int8_t*) { return _mm512_loadu_si512(p); }

// Blocks of 16 columns by one vector of depths (a lane is one f32 depth, two of bf16, four of i8). Returns the depths
// done.
template <class Source, class T>
LIGHTWAM_INLINE std::size_t pack_blocks(const Pack& p, T* panel) {
    constexpr std::size_t kDepths = 64 / sizeof(T);
    const std::size_t width = p.vectors * kLanes;
    std::size_t k = 0;
    for (; k + kDepths <= p.depth; k += kDepths) {
        for (std::size_t vector = 0; vector < p.vectors; ++vector) {
            __m512i block[16];
            for (std::size_t i = 0; i < 16; ++i) {
                const std::size_t n = vector * kLanes + i;
                block[i] = __m512i{};
                if (n < p.count) block[i] = load_lanes(static_cast<const Source*>(p.rows[n]) + k, panel);
            }
            transpose(block);
            T* first = panel + panel_at(panel, k, vector * kLanes, width);
            for (std::size_t i = 0; i < 16; ++i) _mm512_storeu_si512(first + i * width * (kDepths / 16), block[i]);
        }
    }
    return k;
}
#else
template <class Source, class T>
LIGHTWAM_INLINE std::size_t pack_blocks(const Pack&, T*) {
    return 0;
}
#endif

template <class Source, class T>
LIGHTWAM_INLINE void pack_rows_as(const Pack& p) {
    T* panel = static_cast<T*>(p.panel);
    const std::size_t width = p.vectors * kLanes;
    const std::size_t depth = padded_depth(panel, p.depth);
    constexpr std::size_t kBlock = 16;  // depths at a time, so that the panel is written nearly in order
    for (std::size_t begin = pack_blocks<Source>(p, panel); begin < depth; begin += kBlock) {
        const std::size_t end = begin + kBlock < depth ? begin + kBlock : depth;
        for (std::size_t n = 0; n < width; ++n) {
            const Source* row = n < p.count ? static_cast<const Source*>(p.rows[n]) : nullptr;
            for (std::size_t k = begin; k < end; ++k) {
                T value{};
                if (row != nullptr && k < p.depth) convert(row[k], value);
                panel[panel_at(panel, k, n, width)] = value;
            }
        }
    }
}

// Behind an i8 panel: the sum of every column, 0 for those past the last row.
LIGHTWAM_INLINE void pack_column_sums(const Pack& p) {
    const std::size_t width = p.vectors * kLanes;
    const std::size_t panel_bytes = width * padded_depth(static_cast<const std::int8_t*>(nullptr), p.depth);
    auto* sums = reinterpret_cast<std::int32_t*>(static_cast<std::int8_t*>(p.panel) + panel_bytes);
    for (std::size_t n = 0; n < width; ++n) {
        const std::int8_t* row = n < p.count ? static_cast<const std::int8_t*>(p.rows[n]) : nullptr;
        std::int32_t sum = 0;
        for (std::size_t k = 0; row != nullptr && k < p.depth; ++k) sum += row[k];
        sums[n] = sum;
    }
}

void pack_rows(const Pack& p) noexcept {
    if (p.compute == DType::i8) {
        pack_rows_as<std::int8_t, std::int8_t>(p);
        pack_column_sums(p);
    } else if (p.compute == DType::bf16) {
        pack_rows_as<bf16_bits, bf16_bits>(p);
    } else if (p.source == DType::bf16) {
        pack_rows_as<bf16_bits, float>(p);
    } else {
        pack_rows_as<float, float>(p);
    }
}

// One depth (f32) or one pair of depths (bf16) of a panel; `next` is null past an odd depth.
LIGHTWAM_INLINE void pack_depth(const Pack& p, const float* row, const float*, float* out) {
    for_vectors(p.columns, [&](std::size_t n, auto lanes) { store(out + n, load(row + n, lanes)); });
}
LIGHTWAM_INLINE void pack_depth(const Pack& p, const bf16_bits* row, const bf16_bits* next, bf16_bits* out) {
    for_vectors(p.columns, [&](std::size_t n, auto lanes) {
        const vu low = float_to_bits(load(row + n, lanes)) >> 16U;
        const vu high = next == nullptr ? vu{} : float_to_bits(load(next + n, lanes));
        store_as(out + 2 * n, low | high);
    });
}

template <class T>
LIGHTWAM_INLINE void pack_columns_as(const Pack& p) {
    T* panel = static_cast<T*>(p.panel);
    constexpr std::size_t kStep = sizeof(T) == 2 ? 2 : 1;
    const std::size_t width = p.vectors * kLanes;
    for (std::size_t k = 0; k < p.depth; k += kStep) {
        const T* row = static_cast<const T*>(p.rows[k]) + p.first_column;
        const bool last = k + kStep > p.depth;
        const T* next = last || kStep == 1 ? nullptr : static_cast<const T*>(p.rows[k + 1]) + p.first_column;
        pack_depth(p, row, next, panel + panel_at(panel, k, 0, width));
    }
}

void pack_columns(const Pack& p) noexcept {
    if (p.compute == DType::bf16) {
        pack_columns_as<bf16_bits>(p);
    } else {
        pack_columns_as<float>(p);
    }
}
