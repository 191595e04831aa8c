// SPDX-License-Identifier: Apache-2.0
//
// The transforms of the Winograd forms F(2, 3) and F(4, 3), in both directions of a tile (kernel_table.hpp), vectorised
// over channels. Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4:
// y = A^T [(G g G^T) * (B^T d B)] A. F(2, 3) evaluates at 0, 1, -1 and infinity, F(4, 3) at 0, p, -p, q, -q and
// infinity: these p and q (the least error of the worst output) lose less than half of what the usual 1 and 2 lose.

constexpr float kP = 0.675F;
constexpr float kQ = 1.475F;
constexpr float kP2 = kP * kP;
constexpr float kQ2 = kQ * kQ;

// G g for three taps.
LIGHTWAM_INLINE void transform_taps(const float (&g)[3], float (&u)[4]) {
    const float outer = (g[0] + g[2]) * 0.5F;
    const float middle = g[1] * 0.5F;
    u[0] = g[0];
    u[1] = outer + middle;
    u[2] = outer - middle;
    u[3] = g[2];
}
LIGHTWAM_INLINE void transform_taps(const float (&g)[3], float (&u)[6]) {
    constexpr float kScaleP = 1.0F / (2.0F * kP2 * (kP2 - kQ2));
    constexpr float kScaleQ = 1.0F / (2.0F * kQ2 * (kQ2 - kP2));
    const float even_p = (g[0] + g[2] * kP2) * kScaleP;
    const float even_q = (g[0] + g[2] * kQ2) * kScaleQ;
    const float odd_p = g[1] * (kP * kScaleP);
    const float odd_q = g[1] * (kQ * kScaleQ);
    u[0] = g[0] * (1.0F / (kP2 * kQ2));
    u[1] = even_p + odd_p;
    u[2] = even_p - odd_p;
    u[3] = even_q + odd_q;
    u[4] = even_q - odd_q;
    u[5] = g[2];
}

// B^T d for the pixels of a window's row or column.
LIGHTWAM_INLINE void transform_pixels(const vf (&d)[4], vf (&v)[4]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
}
LIGHTWAM_INLINE void transform_pixels(const vf (&d)[6], vf (&v)[6]) {
    const vf even_p = d[4] - d[2] * kQ2;
    const vf even_q = d[4] - d[2] * kP2;
    const vf odd_p = d[3] - d[1] * kQ2;
    const vf odd_q = d[3] - d[1] * kP2;
    v[0] = d[0] * (kP2 * kQ2) + (d[4] - d[2] * (kP2 + kQ2));
    v[1] = even_p + odd_p * kP;
    v[2] = even_p - odd_p * kP;
    v[3] = even_q + odd_q * kQ;
    v[4] = even_q - odd_q * kQ;
    v[5] = d[1] * (kP2 * kQ2) + (d[5] - d[3] * (kP2 + kQ2));
}

// A^T m for the products of a row or column.
LIGHTWAM_INLINE void transform_products(const vf (&m)[4], vf (&y)[2]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
}
LIGHTWAM_INLINE void transform_products(const vf (&m)[6], vf (&y)[4]) {
    const vf even_p = m[1] + m[2];
    const vf even_q = m[3] + m[4];
    const vf odd_p = m[1] - m[2];
    const vf odd_q = m[3] - m[4];
    y[0] = m[0] + even_p + even_q;
    y[1] = odd_p * kP + odd_q * kQ;
    y[2] = even_p * kP2 + even_q * kQ2;
    y[3] = m[5] + odd_p * (kP * kP2) + odd_q * (kQ * kQ2);
}

// The tile of a compute dtype.
template <DType kCompute>
struct TileOf {
    static constexpr WinogradTile kTile = winograd_tile(kCompute);
    static constexpr std::size_t kRows = kTile.rows;
    static constexpr std::size_t kColumns = kTile.columns;
    static constexpr std::size_t kWindowRows = kTile.window_rows();
    static constexpr std::size_t kWindowColumns = kTile.window_columns();
};

// u = G g G^T of the taps [3, 3] of one input and one output channel, `stride` elements from tap to tap.
template <class Tile, class Source>
LIGHTWAM_INLINE void transform_kernel(const Source* taps, std::size_t stride,
                                      float (&u)[Tile::kWindowRows][Tile::kWindowColumns]) {
    float rows[3][Tile::kWindowColumns];
    for (std::size_t i = 0; i < 3; ++i) {
        const Source* row = taps + 3 * i * stride;
        transform_taps({widen(row[0]), widen(row[stride]), widen(row[2 * stride])}, rows[i]);
    }
    for (std::size_t j = 0; j < Tile::kWindowColumns; ++j) {
        float column[Tile::kWindowRows];
        transform_taps({rows[0][j], rows[1][j], rows[2][j]}, column);
        for (std::size_t i = 0; i < Tile::kWindowRows; ++i) u[i][j] = column[i];
    }
}

template <class Tile, class Source, class T>
LIGHTWAM_INLINE void pack_winograd_as(const Pack& p, std::size_t plane_bytes) {
    const std::size_t width = p.vectors * kLanes;
    const std::size_t depth = padded_depth(static_cast<T*>(nullptr), p.depth);
    constexpr std::size_t kBlock = 16;  // depths at a time, so that the panels are written nearly in order
    for (std::size_t begin = 0; begin < depth; begin += kBlock) {
        const std::size_t end = begin + kBlock < depth ? begin + kBlock : depth;
        for (std::size_t n = 0; n < width; ++n) {
            const Source* taps = n < p.count ? static_cast<const Source*>(p.rows[n]) : nullptr;
            for (std::size_t k = begin; k < end; ++k) {
                float u[Tile::kWindowRows][Tile::kWindowColumns] = {};
                if (taps != nullptr && k < p.depth) transform_kernel<Tile>(taps + k, p.depth, u);
                char* plane = static_cast<char*>(p.panel);
                for (std::size_t i = 0; i < Tile::kWindowRows; ++i) {
                    for (std::size_t j = 0; j < Tile::kWindowColumns; ++j, plane += plane_bytes) {
                        T* panel = reinterpret_cast<T*>(plane);
                        convert(u[i][j], panel[panel_at(panel, k, n, width)]);
                    }
                }
            }
        }
    }
}

void pack_winograd(const Pack& p, std::size_t plane_bytes) noexcept {
    if (p.compute == DType::bf16) {
        pack_winograd_as<TileOf<DType::bf16>, bf16_bits, bf16_bits>(p, plane_bytes);
    } else if (p.source == DType::bf16) {
        pack_winograd_as<TileOf<DType::f32>, bf16_bits, float>(p, plane_bytes);
    } else {
        pack_winograd_as<TileOf<DType::f32>, float, float>(p, plane_bytes);
    }
}

template <class Tile, class T>
LIGHTWAM_INLINE void transform_window(const void* const* rows, const void* const* next, std::size_t channels, T* planes,
                                      std::size_t plane_stride) {
    constexpr std::size_t kRows = Tile::kWindowRows;
    constexpr std::size_t kColumns = Tile::kWindowColumns;
    for_vectors(channels, [&](std::size_t c, auto lanes) {
        // The pixels that the next window does not share are fetched: a window's rows are too many streams, and too
        // short, for the CPU to see.
        vf columns[kColumns][kRows];
#pragma GCC unroll 6
        for (std::size_t j = 0; j < kColumns; ++j) {
            vf pixels[kRows];
#pragma GCC unroll 6
            for (std::size_t i = 0; i < kRows; ++i) {
                pixels[i] = load(static_cast<const T*>(rows[i]) + j * channels + c, lanes);
                if (j >= 2) __builtin_prefetch(static_cast<const T*>(next[i]) + j * channels + c);
            }
            transform_pixels(pixels, columns[j]);
        }
#pragma GCC unroll 6
        for (std::size_t i = 0; i < kRows; ++i) {
            vf row[kColumns];
            vf transformed[kColumns];
#pragma GCC unroll 6
            for (std::size_t j = 0; j < kColumns; ++j) row[j] = columns[j][i];
            transform_pixels(row, transformed);
#pragma GCC unroll 6
            for (std::size_t j = 0; j < kColumns; ++j)
                store(planes + (kColumns * i + j) * plane_stride + c, transformed[j], lanes);
        }
    });
}

template <class Tile, class T>
LIGHTWAM_INLINE void winograd_input_as(const WinogradInput& a) {
    for (std::size_t tile = 0; tile < a.tiles; ++tile) {
        const void* const* rows = a.rows + Tile::kWindowRows * tile;
        const void* const* next = tile + 1 < a.tiles ? rows + Tile::kWindowRows : rows;
        transform_window<Tile>(rows, next, a.channels, static_cast<T*>(a.planes) + tile * a.channels, a.plane_stride);
    }
}

void winograd_input(const WinogradInput& a) noexcept {
    if (a.compute == DType::f32) {
        winograd_input_as<TileOf<DType::f32>, float>(a);
    } else {
        winograd_input_as<TileOf<DType::bf16>, bf16_bits>(a);
    }
}

// The outputs A^T m A of a tile, for one vector of channels.
template <class Tile, class Lanes>
LIGHTWAM_INLINE void transform_planes(const float* m, std::size_t plane_stride, Lanes lanes,
                                      vf (&y)[Tile::kRows][Tile::kColumns]) {
    vf columns[Tile::kWindowColumns][Tile::kRows];
#pragma GCC unroll 6
    for (std::size_t j = 0; j < Tile::kWindowColumns; ++j) {
        vf products[Tile::kWindowRows];
#pragma GCC unroll 6
        for (std::size_t i = 0; i < Tile::kWindowRows; ++i)
            products[i] = load(m + (Tile::kWindowColumns * i + j) * plane_stride, lanes);
        transform_products(products, columns[j]);
    }
#pragma GCC unroll 4
    for (std::size_t i = 0; i < Tile::kRows; ++i) {
        vf row[Tile::kWindowColumns];
#pragma GCC unroll 6
        for (std::size_t j = 0; j < Tile::kWindowColumns; ++j) row[j] = columns[j][i];
        transform_products(row, y[i]);
    }
}

// Writes the `rows` x `columns` outputs of a tile that lie on the map; `at` is the first one's element.
template <class Tile, class Residual, class Y>
LIGHTWAM_INLINE void write_tile(const WinogradOutput& a, const float* m, std::size_t at, std::size_t rows,
                                std::size_t columns, const Residual* residual, Y* y) {
    for_vectors(a.columns, [&](std::size_t c, auto lanes) {
        vf outputs[Tile::kRows][Tile::kColumns];
        transform_planes<Tile>(m + c, a.plane_stride, lanes, outputs);
        const vf bias = a.bias != nullptr ? load(a.bias + c, lanes) : vf{};
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Tile::kRows; ++i) {
#pragma GCC unroll 4
            for (std::size_t j = 0; j < Tile::kColumns; ++j) {
                if (i >= rows || j >= columns) continue;
                const std::size_t pixel = at + (i * a.width + j) * a.pixel_stride + c;
                vf v = activate(outputs[i][j] + bias, a.activation);
                if (residual != nullptr) v = v + load(residual + pixel, lanes);
                store(y + pixel, v, lanes);
                // Of the next tile: runs of one panel's columns are too short for the CPU to see them coming.
                __builtin_prefetch(y + pixel + Tile::kColumns * a.pixel_stride, 1);
                if (residual != nullptr) __builtin_prefetch(residual + pixel + Tile::kColumns * a.pixel_stride);
            }
        }
    });
}

template <class Tile, class Residual, class Y>
LIGHTWAM_INLINE void winograd_output_as(const WinogradOutput& a, const Residual* residual, Y* y) {
    const std::size_t tile_columns = (a.width + Tile::kColumns - 1) / Tile::kColumns;
    std::size_t row = a.first_tile / tile_columns * Tile::kRows;
    std::size_t column = a.first_tile % tile_columns * Tile::kColumns;
    for (std::size_t tile = 0; tile < a.tiles; ++tile) {
        const std::size_t at = (row * a.width + column) * a.pixel_stride;
        const float* m = a.planes + tile * a.tile_stride;
        const std::size_t rows = a.height - row;
        const std::size_t columns = a.width - column;
        if (rows >= Tile::kRows && columns >= Tile::kColumns) {
            write_tile<Tile>(a, m, at, Tile::kRows, Tile::kColumns, residual, y);
        } else {
            write_tile<Tile>(a, m, at, rows, columns, residual, y);
        }
        column += Tile::kColumns;
        if (column >= a.width) {
            column = 0;
            row += Tile::kRows;
        }
    }
}

void winograd_output(const WinogradOutput& a) noexcept {
    with_types(a.residual, a.y, [&](const auto* residual, auto* y) {
        if (a.compute == DType::f32) {
            winograd_output_as<TileOf<DType::f32>>(a, residual, y);
        } else {
            winograd_output_as<TileOf<DType::bf16>>(a, residual, y);
        }
    });
}
