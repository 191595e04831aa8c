// SPDX-License-Identifier: Apache-2.0
//
// Tile kernels of the matmul, packing of panels, and the epilogue.
//
// A panel holds vectors*kLanes columns of the right factor, depth after depth. In bf16 two neighbouring depths stand
// side by side (one 32-bit lane), the layout of vdpbf16ps; an odd depth is padded with zero. i8: gemm_i8.inl.

#if LIGHTWAM_VECTOR_BYTES == 64
constexpr int kTileRows = 8;  // 24 accumulators, 3 panel vectors, 1 broadcast of 32 registers
#else
constexpr int kTileRows = 4;  // 12 accumulators, 3 panel vectors, 1 broadcast of 16 registers
#endif
constexpr int kTileVectors = 3;

LIGHTWAM_INLINE std::uint32_t load_pair(const bf16_bits* p) {
    std::uint32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return pair;
}

// acc + a.lo * b.lo + a.hi * b.hi for every 32-bit lane of b; a is one pair for all lanes.
LIGHTWAM_INLINE vf multiply_pair(vf acc, std::uint32_t a, vu b) {
#if LIGHTWAM_NATIVE_BF16
    return reinterpret_cast<vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                                 reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                                                 reinterpret_cast<__m512bh>(b)));
#else
    const vu pair = vu{} + a;
    acc += bits_to_float(pair << 16U) * bits_to_float(b << 16U);
    return acc + bits_to_float(pair & 0xffff0000U) * bits_to_float(b & 0xffff0000U);
#endif
}

template <int kRows, int kVectors>
LIGHTWAM_INLINE void tile_depths(const float* const* a, std::size_t depth, const float*& panel, Ahead& ahead,
                                 vf (&acc)[kRows][kVectors]) {
    for (std::size_t k = 0; k < depth; ++k, ahead.fetch()) {
        vf b[kVectors];
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) b[j] = load(panel + static_cast<std::size_t>(j) * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const vf x = splat(a[i][k]);
#pragma GCC unroll 3
            for (int j = 0; j < kVectors; ++j) acc[i][j] += x * b[j];
        }
        panel += kVectors * kLanes;
    }
}

template <int kRows, int kVectors>
LIGHTWAM_INLINE void tile_pair(const std::uint32_t (&pairs)[kRows], const bf16_bits* panel,
                               vf (&acc)[kRows][kVectors]) {
    vu b[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) b[j] = load_as<vu>(panel + static_cast<std::size_t>(j) * 2 * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) acc[i][j] = multiply_pair(acc[i][j], pairs[i], b[j]);
    }
}

template <int kRows, int kVectors>
LIGHTWAM_INLINE void tile_depths(const bf16_bits* const* a, std::size_t depth, const bf16_bits*& panel, Ahead& ahead,
                                 vf (&acc)[kRows][kVectors]) {
    std::uint32_t pairs[kRows];
    std::size_t k = 0;
    for (; k + 2 <= depth; k += 2, ahead.fetch()) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) pairs[i] = load_pair(a[i] + k);
        tile_pair(pairs, panel, acc);
        panel += 2 * kVectors * kLanes;
    }
    if (k < depth) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) pairs[i] = a[i][k];
        tile_pair(pairs, panel, acc);
        panel += 2 * kVectors * kLanes;
    }
}

// The vectors that sums of products of T are kept in.
template <class T>
struct SumsOf {
    typedef vf type;
};
template <>
struct SumsOf<std::int8_t> {
    typedef vi type;
};

template <class T, int kRows, int kVectors>
void tile(const Tile& t) noexcept {
    typedef typename SumsOf<T>::type Sums;
    Sums acc[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) {
            const std::size_t at = static_cast<std::size_t>(i) * t.acc_stride + static_cast<std::size_t>(j) * kLanes;
            acc[i][j] = t.accumulate ? load_as<Sums>(t.acc + at) : Sums{};
        }
    }
    const T* panel = static_cast<const T*>(t.panel);
    Ahead ahead{static_cast<const char*>(t.ahead != nullptr ? t.ahead : t.panel), t.ahead_step};
    for (std::size_t tap = 0; tap < t.taps; ++tap) {
        const T* a[kRows];
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const void* row = t.rows[tap * t.row_stride + static_cast<std::size_t>(i)];
            a[i] = reinterpret_cast<const T*>(static_cast<const char*>(row) + t.offset_bytes);
        }
        tile_depths(a, t.depth, panel, ahead, acc);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) {
            const std::size_t at = static_cast<std::size_t>(i) * t.acc_stride + static_cast<std::size_t>(j) * kLanes;
            store_as(t.acc + at, acc[i][j]);
        }
    }
}

template <class T, int kRows>
constexpr void add_tiles(KernelTable& table, DType dtype) {
    if constexpr (kRows > 0) {
        TileFunction* row = table.tiles[static_cast<int>(dtype)][kRows - 1];
        row[0] = tile<T, kRows, 1>;
        row[1] = tile<T, kRows, 2>;
        row[2] = tile<T, kRows, 3>;
        add_tiles<T, kRows - 1>(table, dtype);
    }
}

// The sum of an i8 product as a number before row_scale: exact up to the conversion, then one factor. The unsigned
// arithmetic wraps; the difference fits into 32 bits. acc and column_sums are readable to the end of the vector.
template <class L>
LIGHTWAM_INLINE vf dequantised(const Epilogue& e, const float* acc, std::uint32_t offset, std::size_t c, L lanes) {
    const vu sum = load_as<vu>(acc + c) - load_as<vu>(e.column_sums + c) * offset;
    return __builtin_convertvector(reinterpret_cast<vi>(sum), vf) * load(e.column_scale + c, lanes);
}

template <bool kQuantised, class Residual, class Y>
LIGHTWAM_INLINE void epilogue_row(const Epilogue& e, std::size_t r, const Residual* residual, Y* y) {
    const float* acc = e.acc + r * e.acc_stride;
    const float row_scale = e.row_scale != nullptr ? e.row_scale[r] : 1.0F;
    const std::uint32_t offset = kQuantised ? 128U + static_cast<std::uint32_t>(e.row_zero[r]) : 0U;
    for_vectors(e.columns, [&](std::size_t c, auto lanes) {
        vf v = kQuantised ? dequantised(e, acc, offset, c, lanes) : load(acc + c, lanes);
        if (!kQuantised && e.column_scale != nullptr) v = v * load(e.column_scale + c, lanes);
        if (e.row_scale != nullptr) v = v * row_scale;
        if (e.bias != nullptr) v = v + load(e.bias + c, lanes);
        v = activate(v, e.activation);
        if (residual != nullptr) v = v + load(residual + r * e.stride + c, lanes);
        store(y + r * e.stride + c, v, lanes);
    });
}

void epilogue(const Epilogue& e) noexcept {
    with_types(e.residual, e.y, [&](const auto* residual, auto* y) {
        for (std::size_t r = 0; r < e.rows; ++r) {
            if (e.column_sums != nullptr) {
                epilogue_row<true>(e, r, residual, y);
            } else {
                epilogue_row<false>(e, r, residual, y);
            }
        }
    });
}
