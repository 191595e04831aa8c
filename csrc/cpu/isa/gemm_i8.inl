// SPDX-License-Identifier: Apache-2.0
//
// The inner loop of products of 8-bit integers. Four neighbouring depths of a column stand side by side in one 32-bit
// lane of the panel, the layout of vpdpbusd. That instruction multiplies unsigned by signed bytes, so every level adds
// 128 to the row elements (it flips their sign bits); the epilogue takes it out again with the sums of the columns.
// Every sum is exact: nothing saturates, and depth is bounded (linear.hpp).

constexpr std::uint32_t kSignBits = 0x80808080U;

// Four row elements, the first one in the lowest byte; those from `count` on meet weights of 0.
LIGHTWAM_INLINE std::uint32_t load_quad(const std::int8_t* p, std::size_t count = 4) {
    std::uint32_t quad = 0;
    __builtin_memcpy(&quad, p, count);
    return quad;
}

// Row elements plus 128 and one vector of the panel, each prepared once for all it meets in a tile;
// multiply_quad(acc, row, weights) adds the four products.
#if LIGHTWAM_NATIVE_I8
typedef vu QuadRow;
typedef vu QuadWeights;
LIGHTWAM_INLINE QuadRow prepare_row(std::uint32_t quad) {
    vu signs = vu{} + kSignBits;
    asm("" : "+v"(signs));  // in a vector: the compiler would flip the scalar, and so load it into the wrong registers
    return (vu{} + quad) ^ signs;
}
LIGHTWAM_INLINE QuadWeights prepare_weights(vu b) { return b; }
LIGHTWAM_INLINE vi multiply_quad(vi acc, const QuadRow& x, const QuadWeights& b) {
#if LIGHTWAM_VECTOR_BYTES == 64
    return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(x),
                                                    reinterpret_cast<__m512i>(b)));
#else
    return reinterpret_cast<vi>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(acc), reinterpret_cast<__m256i>(x),
                                                        reinterpret_cast<__m256i>(b)));
#endif
}
#elif defined(__SSE2__)
// Products of 16 bits, two neighbours summed in 32 (pmaddwd): bytes 0 and 2 of every lane, then bytes 1 and 3.
typedef std::int16_t vs __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES)));
struct QuadRow {
    vs even;
    vs odd;
};
typedef QuadRow QuadWeights;
LIGHTWAM_INLINE QuadRow prepare_row(std::uint32_t quad) {
    quad ^= kSignBits;
    return {reinterpret_cast<vs>(vu{} + (quad & 0x00ff00ffU)),
            reinterpret_cast<vs>(vu{} + ((quad >> 8U) & 0x00ff00ffU))};
}
LIGHTWAM_INLINE QuadWeights prepare_weights(vu b) {
    const vs pairs = reinterpret_cast<vs>(b);
    return {(pairs << 8) >> 8, pairs >> 8};
}
LIGHTWAM_INLINE vi multiply_pairs(vs a, vs b) {
#if LIGHTWAM_VECTOR_BYTES == 64
    return reinterpret_cast<vi>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif LIGHTWAM_VECTOR_BYTES == 32
    return reinterpret_cast<vi>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return reinterpret_cast<vi>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}
LIGHTWAM_INLINE vi multiply_quad(vi acc, const QuadRow& x, const QuadWeights& b) {
    return acc + multiply_pairs(x.even, b.even) + multiply_pairs(x.odd, b.odd);
}
#else
typedef std::uint32_t QuadRow;
struct QuadWeights {
    vi byte[4];
};
LIGHTWAM_INLINE QuadRow prepare_row(std::uint32_t quad) { return quad ^ kSignBits; }
LIGHTWAM_INLINE QuadWeights prepare_weights(vu b) {
    return {{reinterpret_cast<vi>(b << 24U) >> 24, reinterpret_cast<vi>(b << 16U) >> 24,
             reinterpret_cast<vi>(b << 8U) >> 24, reinterpret_cast<vi>(b) >> 24}};
}
LIGHTWAM_INLINE vi multiply_quad(vi acc, QuadRow x, const QuadWeights& b) {
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; ++i) acc += b.byte[i] * static_cast<std::int32_t>((x >> (8 * i)) & 0xffU);
    return acc;
}
#endif

// Depths [0, count) of every row, at a[i] + k.
template <int kRows, int kVectors>
LIGHTWAM_INLINE void tile_quad(const std::int8_t* const* a, std::size_t k, std::size_t count, const std::int8_t* panel,
                               vi (&acc)[kRows][kVectors]) {
#if LIGHTWAM_NATIVE_I8
    QuadWeights b[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j)
        b[j] = prepare_weights(load_as<vu>(panel + static_cast<std::size_t>(j) * 4 * kLanes));
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
        const QuadRow x = prepare_row(load_quad(a[i] + k, count));
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) acc[i][j] = multiply_quad(acc[i][j], x, b[j]);
    }
#else  // a prepared vector takes several registers: one at a time
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
        const QuadWeights b = prepare_weights(load_as<vu>(panel + static_cast<std::size_t>(j) * 4 * kLanes));
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
            acc[i][j] = multiply_quad(acc[i][j], prepare_row(load_quad(a[i] + k, count)), b);
    }
#endif
}

template <int kRows, int kVectors>
LIGHTWAM_INLINE void tile_depths(const std::int8_t* const* a, std::size_t depth, const std::int8_t*& panel,
                                 Ahead& ahead, vi (&acc)[kRows][kVectors]) {
    std::size_t k = 0;
    for (; k + 4 <= depth; k += 4, panel += 4 * kVectors * kLanes) {
        tile_quad(a, k, 4, panel, acc);
        ahead.fetch();
    }
    if (k < depth) {
        tile_quad(a, k, depth - k, panel, acc);
        panel += 4 * kVectors * kLanes;
    }
}
