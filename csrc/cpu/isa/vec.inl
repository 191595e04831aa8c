// SPDX-License-Identifier: Apache-2.0
//
// Vectors of LIGHTWAM_VECTOR_BYTES bytes on the compiler's vector extension, loads and stores of f32 and bf16.
// Included by level.cpp inside the level's own anonymous namespace.

constexpr std::size_t kLanes = LIGHTWAM_VECTOR_BYTES / 4;

typedef float vf __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES)));
typedef std::int32_t vi __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES)));
typedef std::uint32_t vu __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES)));
typedef std::uint16_t vh __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES / 2)));
typedef std::uint8_t vb __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES / 4)));

#define LIGHTWAM_INLINE inline __attribute__((always_inline))

template <class V, class P>
LIGHTWAM_INLINE V load_as(const P* p) {
    typedef V unaligned __attribute__((aligned(1), may_alias));
    return *reinterpret_cast<const unaligned*>(p);
}

template <class V, class P>
LIGHTWAM_INLINE void store_as(P* p, V v) {
    typedef V unaligned __attribute__((aligned(1), may_alias));
    *reinterpret_cast<unaligned*>(p) = v;
}

// Prefetches memory that is read soon, line by line, into the second-level cache.
struct Ahead {
    const char* at;
    std::size_t step;
    LIGHTWAM_INLINE void fetch() {
        __builtin_prefetch(at, 0, 2);
        at += step;
    }
};

// Subtracting zero is no operation, adding zero is one: -0 + 0 is 0.
LIGHTWAM_INLINE vf splat(float x) { return x - vf{}; }
LIGHTWAM_INLINE vf bits_to_float(vu u) { return reinterpret_cast<vf>(u); }
LIGHTWAM_INLINE vu float_to_bits(vf f) { return reinterpret_cast<vu>(f); }

LIGHTWAM_INLINE float widen(bf16_bits x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16U;
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}
LIGHTWAM_INLINE float widen(float x) { return x; }

// Round to nearest even; NaN stays NaN.
LIGHTWAM_INLINE bf16_bits narrow(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<bf16_bits>((bits >> 16U) | 0x40U);
    return static_cast<bf16_bits>((bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U);
}

// 16-bit lanes to 32-bit ones. GCC 12 takes five instructions for __builtin_convertvector where there is one.
#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE vu zero_extended(vh x) {
    return reinterpret_cast<vu>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x)));
}
#elif LIGHTWAM_VECTOR_BYTES == 32
LIGHTWAM_INLINE vu zero_extended(vh x) {
    return reinterpret_cast<vu>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x)));
}
#else
LIGHTWAM_INLINE vu zero_extended(vh x) { return __builtin_convertvector(x, vu); }
#endif

#if LIGHTWAM_NATIVE_BF16
// The instruction also flushes f32 denormals to zero.
LIGHTWAM_INLINE vh narrow(vf x) { return reinterpret_cast<vh>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x))); }
#else
LIGHTWAM_INLINE vh narrow(vf x) {
    const vu bits = float_to_bits(x);
    const vu rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
    const vu nan = (bits >> 16U) | 0x40U;
    return __builtin_convertvector((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded, vh);
}
#endif

// What storing v to this destination and loading it again gives.
LIGHTWAM_INLINE vf rounded(vf v, const float*) { return v; }
LIGHTWAM_INLINE vf rounded(vf v, const bf16_bits*) { return bits_to_float(zero_extended(narrow(v)) << 16U); }

LIGHTWAM_INLINE void convert(float x, float& y) { y = x; }
LIGHTWAM_INLINE void convert(float x, bf16_bits& y) { y = narrow(x); }
LIGHTWAM_INLINE void convert(bf16_bits x, float& y) { y = widen(x); }
LIGHTWAM_INLINE void convert(bf16_bits x, bf16_bits& y) { y = x; }

LIGHTWAM_INLINE void convert(std::int8_t x, std::int8_t& y) { y = x; }

LIGHTWAM_INLINE vf load(const float* p) { return load_as<vf>(p); }
LIGHTWAM_INLINE vf load(const bf16_bits* p) { return bits_to_float(zero_extended(load_as<vh>(p)) << 16U); }
LIGHTWAM_INLINE void store(float* p, vf v) { store_as(p, v); }
LIGHTWAM_INLINE void store(bf16_bits* p, vf v) { store_as(p, narrow(v)); }
// Whole numbers from -128 to 127.
LIGHTWAM_INLINE void store(std::int8_t* p, vf v) {
    typedef std::int8_t vc __attribute__((vector_size(LIGHTWAM_VECTOR_BYTES / 4)));
    store_as(p, __builtin_convertvector(__builtin_convertvector(v, vi), vc));
}

// The first n < kLanes elements; the others read as zero and are not touched.
#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE __mmask16 first_lanes(std::size_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
LIGHTWAM_INLINE vf load(const float* p, std::size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
LIGHTWAM_INLINE vf load(const bf16_bits* p, std::size_t n) {
    const __m256i half = _mm256_maskz_loadu_epi16(first_lanes(n), p);
    return bits_to_float(zero_extended(reinterpret_cast<vh>(half)) << 16U);
}
LIGHTWAM_INLINE void store(float* p, vf v, std::size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
LIGHTWAM_INLINE void store(bf16_bits* p, vf v, std::size_t n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), reinterpret_cast<__m256i>(narrow(v)));
}
LIGHTWAM_INLINE void store(std::int8_t* p, vf v, std::size_t n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes(n), _mm512_cvttps_epi32(v));
}
#else
LIGHTWAM_INLINE vf load(const float* p, std::size_t n) {
    float lanes[kLanes] = {};
    __builtin_memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
LIGHTWAM_INLINE vf load(const bf16_bits* p, std::size_t n) {
    bf16_bits lanes[kLanes] = {};
    __builtin_memcpy(lanes, p, n * sizeof(bf16_bits));
    return load(lanes);
}
template <class T>
LIGHTWAM_INLINE void store(T* p, vf v, std::size_t n) {
    T lanes[kLanes];
    store(lanes, v);
    __builtin_memcpy(p, lanes, n * sizeof(T));
}
#endif

// Bounds that keep NaN: the comparison with NaN is false. The intrinsics return their second operand then.
#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE vf at_least(vf x, vf low) { return _mm512_max_ps(low, x); }
LIGHTWAM_INLINE vf at_most(vf x, vf high) { return _mm512_min_ps(high, x); }
#elif LIGHTWAM_VECTOR_BYTES == 32
LIGHTWAM_INLINE vf at_least(vf x, vf low) { return _mm256_max_ps(low, x); }
LIGHTWAM_INLINE vf at_most(vf x, vf high) { return _mm256_min_ps(high, x); }
#else
LIGHTWAM_INLINE vf at_least(vf x, vf low) { return x < low ? low : x; }
LIGHTWAM_INLINE vf at_most(vf x, vf high) { return x > high ? high : x; }
#endif

#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE float sum_of_lanes(vf v) { return _mm512_reduce_add_ps(v); }
LIGHTWAM_INLINE float maximum_of_lanes(vf v) { return _mm512_reduce_max_ps(v); }
#else
LIGHTWAM_INLINE float sum_of_lanes(vf v) {
    float lanes[kLanes];
    store(lanes, v);
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
}
LIGHTWAM_INLINE float maximum_of_lanes(vf v) {
    float lanes[kLanes];
    store(lanes, v);
    float best = lanes[0];
    for (std::size_t i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}
#endif

// A loop over vectors passes Whole for full vectors and Part for the last lanes; both load and store the same way.
struct Whole {};
struct Part {
    std::size_t count;
};
template <class T>
LIGHTWAM_INLINE vf load(const T* p, Whole) {
    return load(p);
}
template <class T>
LIGHTWAM_INLINE vf load(const T* p, Part part) {
    return load(p, part.count);
}
template <class T>
LIGHTWAM_INLINE void store(T* p, vf v, Whole) {
    store(p, v);
}
template <class T>
LIGHTWAM_INLINE void store(T* p, vf v, Part part) {
    store(p, v, part.count);
}

// v with the lanes past the end replaced by `fill`.
LIGHTWAM_INLINE vf padded(vf v, Whole, float) { return v; }
LIGHTWAM_INLINE vf padded(vf v, Part part, float fill) {
    vi index;
    for (std::size_t i = 0; i < kLanes; ++i) index[i] = static_cast<std::int32_t>(i);
    return index < static_cast<std::int32_t>(part.count) ? v : splat(fill);
}

// Calls body(offset, Whole or Part) over [0, count).
template <class Body>
LIGHTWAM_INLINE void for_vectors(std::size_t count, Body&& body) {
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) body(i, Whole{});
    if (i < count) body(i, Part{count - i});
}

// Calls body(source pointer, destination pointer) with the element types of x and y.
template <class Body>
LIGHTWAM_INLINE void with_types(const Input& x, const Output& y, Body&& body) {
    const bool x_f32 = x.dtype == DType::f32;
    const bool y_f32 = y.dtype == DType::f32;
    const auto* xf = static_cast<const float*>(x.data);
    const auto* xh = static_cast<const bf16_bits*>(x.data);
    auto* yf = static_cast<float*>(y.data);
    auto* yh = static_cast<bf16_bits*>(y.data);
    if (x_f32 && y_f32) {
        body(xf, yf);
    } else if (x_f32) {
        body(xf, yh);
    } else if (y_f32) {
        body(xh, yf);
    } else {
        body(xh, yh);
    }
}
