// SPDX-License-Identifier: Apache-2.0
//
// exp, erfc and the activations, vectorised. Relative error of exp about 1e-7 in f32. NaN in, NaN out.

constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds to a whole number
LIGHTWAM_INLINE vf to_whole(vf x) { return (x + kRound) - kRound; }

// x * 2^n for whole n; the result may overflow to infinity or underflow to zero.
#if LIGHTWAM_VECTOR_BYTES == 64
LIGHTWAM_INLINE vf scale_by_power(vf x, vf n) { return _mm512_scalef_ps(x, n); }
#else
// Two factors: n may be beyond what one exponent holds.
LIGHTWAM_INLINE vf power_of_two(vf n) {
    return bits_to_float(reinterpret_cast<vu>((__builtin_convertvector(n, vi) + 127) << 23));
}
LIGHTWAM_INLINE vf scale_by_power(vf x, vf n) {
    const vf half = to_whole(n * 0.5F);
    return x * power_of_two(half) * power_of_two(n - half);
}
#endif

// exp(x) = 2^n exp(r), |r| <= ln(2)/2.
LIGHTWAM_INLINE vf exp(vf x) {
    const vf bounded = at_most(at_least(x, splat(-104.0F)), splat(89.0F));  // beyond: zero and infinity
    const vf n = to_whole(bounded * 1.44269504F);
    const vf r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
    vf p = splat(1.9875691500e-4F);
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * (r * r) + r + 1.0F;
    return scale_by_power(p, n);
}

LIGHTWAM_INLINE vf silu(vf x) { return x / (exp(-x) + 1.0F); }

// 2^x = 2^n 2^r, |r| <= 1/2; the polynomial is fitted to a relative error of 2e-8. Fewer steps than exp, for arguments
// whose own rounding is as large as that of their product with log2(e).
LIGHTWAM_INLINE vf exp2(vf x) {
#if LIGHTWAM_VECTOR_BYTES == 64
    const vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // x - n; of infinity 0
    const vf n = x - r;
#else
    const vf bounded = at_most(at_least(x, splat(-150.0F)), splat(128.0F));  // beyond: zero and infinity
    const vf n = to_whole(bounded);
    const vf r = bounded - n;
#endif
    vf p = splat(1.535336196e-4F);
    p = p * r + 1.339887385e-3F;
    p = p * r + 9.618436918e-3F;
    p = p * r + 5.550332367e-2F;
    p = p * r + 2.402264774e-1F;
    p = p * r + 6.931471825e-1F;
    p = p * r + 1.0F;
    return scale_by_power(p, n);
}

// x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)) = x / (1 + 2^(-2u log2(e))), u = sqrt(2/pi) (x + 0.044715 x^3).
LIGHTWAM_INLINE vf gelu_tanh(vf x) {
    constexpr float kLinear = -2.0F * 0.7978845608F * 1.44269504F;
    return x / (exp2(x * (x * x * (0.044715F * kLinear) + kLinear)) + 1.0F);
}

// erfc(z) for z >= 0: exp(-z^2) t P(t), t = 1 / (1 + 0.42 z); P fitted to a relative error of 3e-9 on [0, 10].
LIGHTWAM_INLINE vf erfc_positive(vf z) {
    const vf t = 1.0F / (z * 0.42F + 1.0F);
    vf p = splat(-0.0411374457F);
    p = p * t + 0.230705306F;
    p = p * t - 0.486643046F;
    p = p * t + 0.437150478F;
    p = p * t - 0.197329789F;
    p = p * t + 0.213733852F;
    p = p * t + 0.150040597F;
    p = p * t + 0.219894499F;
    p = p * t + 0.236612216F;
    p = p * t + 0.236973315F;
    return exp(-(z * z)) * t * p;
}

// x Phi(x) = x (1 + erf(x / sqrt(2))) / 2.
LIGHTWAM_INLINE vf gelu(vf x) {
    const vf magnitude = x < 0.0F ? -x : x;
    const vf tail = x * 0.5F * erfc_positive(magnitude * 0.70710678F);
    return x < 0.0F ? tail : x - tail;
}

LIGHTWAM_INLINE vf activate(vf x, Activation activation) {
    switch (activation) {
        case Activation::silu:
            return silu(x);
        case Activation::gelu:
            return gelu(x);
        case Activation::gelu_tanh:
            return gelu_tanh(x);
        case Activation::none:
            break;
    }
    return x;
}
