// SPDX-License-Identifier: Apache-2.0
//
// The transforms of the Winograd form F(2x2, 3x3), vectorised over channels. Lavin and Gray, "Fast Algorithms for
// Convolutional Neural Networks" (2015), section 4.1: y = A^T [(G g G^T) * (B^T d B)] A.

// G g for three taps.
template <class V>
LIGHTWAM_INLINE void transform_taps(V g0, V g1, V g2, V (&u)[4]) {
    const V outer = (g0 + g2) * 0.5F;
    const V middle = g1 * 0.5F;
    u[0] = g0;
    u[1] = outer + middle;
    u[2] = outer - middle;
    u[3] = g2;
}

template <class Source, class T>
LIGHTWAM_INLINE void pack_winograd_as(const Pack& p, std::size_t plane_bytes) {
    const std::size_t width = p.vectors * kLanes;
    const std::size_t depth = padded_depth(static_cast<T*>(nullptr), p.depth);
    constexpr std::size_t kBlock = 16;  // depths at a time, so that the panels are written nearly in order
    for (std::size_t begin = 0; begin < depth; begin += kBlock) {
        const std::size_t end = begin + kBlock < depth ? begin + kBlock : depth;
        for (std::size_t n = 0; n < width; ++n) {
            const Source* taps = n < p.count ? static_cast<const Source*>(p.rows[n]) : nullptr;
            for (std::size_t k = begin; k < end; ++k) {
                float rows[3][4] = {};
                if (taps != nullptr && k < p.depth) {
                    for (std::size_t i = 0; i < 3; ++i) {
                        const Source* row = taps + 3 * i * p.depth + k;
                        transform_taps(widen(row[0]), widen(row[p.depth]), widen(row[2 * p.depth]), rows[i]);
                    }
                }
                for (std::size_t j = 0; j < 4; ++j) {
                    float column[4];
                    transform_taps(rows[0][j], rows[1][j], rows[2][j], column);
                    for (std::size_t i = 0; i < 4; ++i) {
                        T* panel = reinterpret_cast<T*>(static_cast<char*>(p.panel) + (4 * i + j) * plane_bytes);
                        convert(column[i], panel[panel_at(panel, k, n, width)]);
                    }
                }
            }
        }
    }
}

void pack_winograd(const Pack& p, std::size_t plane_bytes) noexcept {
    if (p.compute == DType::bf16) {
        pack_winograd_as<bf16_bits, bf16_bits>(p, plane_bytes);
    } else if (p.source == DType::bf16) {
        pack_winograd_as<bf16_bits, float>(p, plane_bytes);
    } else {
        pack_winograd_as<float, float>(p, plane_bytes);
    }
}

// B^T d for four pixels.
LIGHTWAM_INLINE void transform_pixels(vf d0, vf d1, vf d2, vf d3, vf (&v)[4]) {
    v[0] = d0 - d2;
    v[1] = d1 + d2;
    v[2] = d2 - d1;
    v[3] = d1 - d3;
}

template <class T>
LIGHTWAM_INLINE void transform_window(const T* const (&window)[4], std::size_t channels, T* planes,
                                      std::size_t plane_stride) {
    for_vectors(channels, [&](std::size_t c, auto lanes) {
        vf columns[4][4];
#pragma GCC unroll 4
        for (std::size_t j = 0; j < 4; ++j) {
            const std::size_t at = j * channels + c;
            transform_pixels(load(window[0] + at, lanes), load(window[1] + at, lanes), load(window[2] + at, lanes),
                             load(window[3] + at, lanes), columns[j]);
        }
#pragma GCC unroll 4
        for (std::size_t i = 0; i < 4; ++i) {
            vf row[4];
            transform_pixels(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
#pragma GCC unroll 4
            for (std::size_t j = 0; j < 4; ++j) store(planes + (4 * i + j) * plane_stride + c, row[j], lanes);
        }
    });
}

template <class T>
LIGHTWAM_INLINE void winograd_input_as(const WinogradInput& a) {
    for (std::size_t tile = 0; tile < a.tiles; ++tile) {
        const T* window[4];
        for (std::size_t i = 0; i < 4; ++i) window[i] = static_cast<const T*>(a.rows[4 * tile + i]);
        transform_window(window, a.channels, static_cast<T*>(a.planes) + tile * a.channels, a.plane_stride);
    }
}

void winograd_input(const WinogradInput& a) noexcept {
    if (a.dtype == DType::f32) {
        winograd_input_as<float>(a);
    } else {
        winograd_input_as<bf16_bits>(a);
    }
}

// The 2x2 outputs of one vector of channels: A^T m A.
template <class Lanes>
LIGHTWAM_INLINE void transform_products(const float* m, std::size_t plane_stride, Lanes lanes, vf (&y)[2][2]) {
    vf rows[2][4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) {
        const vf m0 = load(m + j * plane_stride, lanes);
        const vf m1 = load(m + (4 + j) * plane_stride, lanes);
        const vf m2 = load(m + (8 + j) * plane_stride, lanes);
        const vf m3 = load(m + (12 + j) * plane_stride, lanes);
        rows[0][j] = m0 + m1 + m2;
        rows[1][j] = m1 - m2 - m3;
    }
#pragma GCC unroll 2
    for (std::size_t i = 0; i < 2; ++i) {
        y[i][0] = rows[i][0] + rows[i][1] + rows[i][2];
        y[i][1] = rows[i][1] - rows[i][2] - rows[i][3];
    }
}

// `kRows` x `kColumns` of the tile's outputs lie on the map; `at` is the first one's element.
template <std::size_t kRows, std::size_t kColumns, class Residual, class Y>
LIGHTWAM_INLINE void write_tile(const WinogradOutput& a, const float* m, std::size_t at, const Residual* residual,
                                Y* y) {
    for_vectors(a.columns, [&](std::size_t c, auto lanes) {
        vf outputs[2][2];
        transform_products(m + c, a.plane_stride, lanes, outputs);
        const vf bias = a.bias != nullptr ? load(a.bias + c, lanes) : vf{};
#pragma GCC unroll 2
        for (std::size_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
            for (std::size_t j = 0; j < kColumns; ++j) {
                const std::size_t pixel = at + (i * a.width + j) * a.pixel_stride + c;
                vf v = activate(outputs[i][j] + bias, a.activation);
                if (residual != nullptr) v = v + load(residual + pixel, lanes);
                store(y + pixel, v, lanes);
            }
        }
    });
}

void winograd_output(const WinogradOutput& a) noexcept {
    const std::size_t tile_columns = (a.width + 1) / 2;
    with_types(a.residual, a.y, [&](const auto* residual, auto* y) {
        std::size_t row = a.first_tile / tile_columns * 2;
        std::size_t column = a.first_tile % tile_columns * 2;
        for (std::size_t tile = 0; tile < a.tiles; ++tile) {
            const std::size_t at = (row * a.width + column) * a.pixel_stride;
            const float* m = a.planes + tile * a.tile_stride;
            const bool two_rows = row + 1 < a.height;
            const bool two_columns = column + 1 < a.width;
            if (two_rows && two_columns) {
                write_tile<2, 2>(a, m, at, residual, y);
            } else if (two_rows) {
                write_tile<2, 1>(a, m, at, residual, y);
            } else if (two_columns) {
                write_tile<1, 2>(a, m, at, residual, y);
            } else {
                write_tile<1, 1>(a, m, at, residual, y);
            }
            column += 2;
            if (column >= a.width) {
                column = 0;
                row += 2;
            }
        }
    });
}
