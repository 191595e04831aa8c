// SPDX-License-Identifier: Apache-2.0
//
// Row normalisations. Sums run in a fixed order, whatever the number of threads.

// The sum of term(offset, Whole or Part) over vectors in order. Four of them grow side by side: one addition need not
// wait for the one before.
template <class Term>
LIGHTWAM_INLINE float sum_of_terms(std::size_t n, Term&& term) {
    constexpr std::size_t kSums = 4;
    vf sums[kSums] = {};
    std::size_t i = 0;
    for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
#pragma GCC unroll 4
        for (std::size_t j = 0; j < kSums; ++j) sums[j] = sums[j] + term(i + j * kLanes, Whole{});
    }
    for_vectors(n - i, [&](std::size_t c, auto lanes) { sums[0] = sums[0] + term(i + c, lanes); });
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T>
LIGHTWAM_INLINE float row_sum(const T* x, std::size_t n) {
    return sum_of_terms(n, [&](std::size_t i, auto lanes) { return load(x + i, lanes); });
}

template <class T>
LIGHTWAM_INLINE float row_sum_of_squares(const T* x, std::size_t n) {
    return sum_of_terms(n, [&](std::size_t i, auto lanes) {
        const vf v = load(x + i, lanes);
        return v * v;
    });
}

// 1 / sqrt(x), and NaN of an infinite x: squares of a finite row (above 1.8e19) that overflowed. As 0 it would make a
// row of zeros, which nobody can tell from a result.
LIGHTWAM_INLINE float inverse_root(float x) { return 1.0F / __builtin_sqrtf(x) + (x - x); }

// Mean, and 1 / sqrt(variance + eps); the variance in a second pass over the differences.
struct Moments {
    float mean;
    float inverse;
};
template <class T>
LIGHTWAM_INLINE Moments row_moments(const T* x, std::size_t n, float eps) {
    const float mean = row_sum(x, n) / static_cast<float>(n);
    const std::size_t whole = n / kLanes * kLanes;
    float squares = sum_of_terms(whole, [&](std::size_t i, auto lanes) {
        const vf d = load(x + i, lanes) - mean;
        return d * d;
    });
    for (std::size_t i = whole; i < n; ++i) {
        const float d = widen(x[i]) - mean;
        squares += d * d;
    }
    return {mean, inverse_root(squares / static_cast<float>(n) + eps)};
}

void layer_norm(const LayerNormArgs& a, std::size_t begin, std::size_t end) noexcept {
    with_types(a.x, a.y, [&](const auto* x_all, auto* y_all) {
        for (std::size_t r = begin; r < end; ++r) {
            const auto* x = x_all + r * a.columns;
            auto* y = y_all + r * a.columns;
            const Moments m = row_moments(x, a.columns, a.eps);
            for_vectors(a.columns, [&](std::size_t c, auto lanes) {
                vf v = (load(x + c, lanes) - m.mean) * m.inverse;
                if (a.weight != nullptr) v = v * load(a.weight + c, lanes);
                if (a.bias != nullptr) v = v + load(a.bias + c, lanes);
                store(y + c, v, lanes);
            });
        }
    });
}

template <bool kSilu, class X, class Y>
LIGHTWAM_INLINE void rms_norm_row(const RmsNormArgs& a, const X* x, float inverse, Y* y) {
    for_vectors(a.columns, [&](std::size_t c, auto lanes) {
        const vf v = load(x + c, lanes) * inverse * load(a.weight + c, lanes);
        store(y + c, kSilu ? silu(v) : activate(v, a.activation), lanes);
    });
}

// Some rows at a time, no more than the first-level cache holds: first all their sums, then all their values, so that
// no row waits for the end of another's sum.
void rms_norm(const RmsNormArgs& a, std::size_t begin, std::size_t end) noexcept {
    constexpr std::size_t kMostRows = 16;
    constexpr std::size_t kElements = 4096;
    const std::size_t fitting = kElements / a.columns;
    const std::size_t block = fitting < 1 ? 1 : fitting < kMostRows ? fitting : kMostRows;
    with_types(a.x, a.y, [&](const auto* x_all, auto* y_all) {
        for (std::size_t first = begin; first < end; first += block) {
            const std::size_t rows = first + block < end ? block : end - first;
            const auto* x = x_all + first * a.columns;
            auto* y = y_all + first * a.columns;
            float inverse[kMostRows];
            for (std::size_t r = 0; r < rows; ++r)
                inverse[r] = row_sum_of_squares(x + r * a.columns, a.columns) / static_cast<float>(a.columns) + a.eps;
            for (std::size_t r = 0; r < rows; ++r) inverse[r] = inverse_root(inverse[r]);
            for (std::size_t r = 0; r < rows; ++r) {
                if (a.activation == Activation::silu) {
                    rms_norm_row<true>(a, x + r * a.columns, inverse[r], y + r * a.columns);
                } else {
                    rms_norm_row<false>(a, x + r * a.columns, inverse[r], y + r * a.columns);
                }
            }
        }
    });
}

// Whole vectors of pairs from `x` (one head); returns the elements done.
#if LIGHTWAM_VECTOR_BYTES == 64
template <class X, class Y>
LIGHTWAM_INLINE std::size_t rope_vectors(const X* x, const float* weight, float inverse, const float* cos,
                                         const float* sin, std::size_t width, Y* y) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    std::size_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        const vf v = load(x + i) * inverse * load(weight + i);
        const vf c = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(cos + i / 2)));
        const vf s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(sin + i / 2)));
        const vf swapped = _mm512_permute_ps(v, 0xb1);
        store(y + i, _mm512_fmaddsub_ps(v, c, swapped * s));
    }
    return i;
}
#else
template <class X, class Y>
LIGHTWAM_INLINE std::size_t rope_vectors(const X*, const float*, float, const float*, const float*, std::size_t, Y*) {
    return 0;
}
#endif

template <class X, class Y>
LIGHTWAM_INLINE void rope_row(const RmsNormRopeArgs& a, std::size_t r, const X* x, Y* y) {
    const std::size_t columns = a.heads * a.head_width;
    const float inverse = inverse_root(row_sum_of_squares(x, columns) / static_cast<float>(columns) + a.eps);
    const float* cos = a.cos + r * (a.head_width / 2);
    const float* sin = a.sin + r * (a.head_width / 2);
    for (std::size_t first = 0; first < columns; first += a.head_width) {
        const float* weight = a.weight + first;
        std::size_t i = rope_vectors(x + first, weight, inverse, cos, sin, a.head_width, y + first);
        for (; i < a.head_width; i += 2) {
            const float even = widen(x[first + i]) * inverse * weight[i];
            const float odd = widen(x[first + i + 1]) * inverse * weight[i + 1];
            convert(even * cos[i / 2] - odd * sin[i / 2], y[first + i]);
            convert(even * sin[i / 2] + odd * cos[i / 2], y[first + i + 1]);
        }
    }
}

void rms_norm_rope(const RmsNormRopeArgs& a, std::size_t begin, std::size_t end) noexcept {
    const std::size_t columns = a.heads * a.head_width;
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for (std::size_t r = begin; r < end; ++r) rope_row(a, r, x + r * columns, y + r * columns);
    });
}

void mean_pool(const MeanPoolArgs& a, std::size_t begin, std::size_t end) noexcept {
    with_types(a.x, a.y, [&](const auto* x, auto* y) {
        for_vectors(end - begin, [&](std::size_t c, auto lanes) {
            vf sum{};
            for (std::size_t r = 0; r < a.rows; ++r) sum = sum + load(x + r * a.columns + begin + c, lanes);
            store(y + begin + c, sum / static_cast<float>(a.rows), lanes);
        });
    });
}
