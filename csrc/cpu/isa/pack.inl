// SPDX-License-Identifier: Apache-2.0
//
// Packing of panels (layout: gemm.inl), from rows that become columns of the panel or from rows that are its depths.


// Where (depth k, column n) stands in a panel of `width` columns.
LIGHTWAM_INLINE std::size_t panel_at(const float*, std::size_t k, std::size_t n, std::size_t width) { return k * width + n; }
LIGHTWAM_INLINE std::size_t panel_at(const bf16_bits*, std::size_t k, std::size_t n, std::size_t width) {
    return (k / 2 * width + n) * 2 + k % 2;
}
LIGHTWAM_INLINE std::size_t padded_depth(const float*, std::size_t depth) { return depth; }
LIGHTWAM_INLINE std::size_t padded_depth(const bf16_bits*, std::size_t depth) { return (depth + 1) / 2 * 2; }

template <class Source, class T>
LIGHTWAM_INLINE void pack_rows_as(const Pack& p) {
    T* panel = static_cast<T*>(p.panel);
    const std::size_t width = p.vectors * kLanes;
    const std::size_t depth = padded_depth(panel, p.depth);
    constexpr std::size_t kBlock = 16;  // depths at a time, so that the panel is written nearly in order
    for (std::size_t begin = 0; begin < depth; begin += kBlock) {
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

void pack_rows(const Pack& p) noexcept {
    if (p.compute == DType::bf16) {
        pack_rows_as<bf16_bits, bf16_bits>(p);
    } else if (p.source == DType::bf16) {
        pack_rows_as<bf16_bits, float>(p);
    } else {
        pack_rows_as<float, float>(p);
    }
}

template <class T>
LIGHTWAM_INLINE void pack_columns_as(const Pack& p) {
    T* panel = static_cast<T*>(p.panel);
    const std::size_t width = p.vectors * kLanes;
    for (std::size_t k = 0; k < padded_depth(panel, p.depth); ++k) {
        const T* row = k < p.depth ? static_cast<const T*>(p.rows[k]) + p.first_column : nullptr;
        for (std::size_t n = 0; n < width; ++n) {
            panel[panel_at(panel, k, n, width)] = row != nullptr && n < p.columns ? row[n] : T{};
        }
    }
}

void pack_columns(const Pack& p) noexcept {
    if (p.compute == DType::bf16) {
        pack_columns_as<bf16_bits>(p);
    } else {
        pack_columns_as<float>(p);
    }
}
