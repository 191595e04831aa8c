// SPDX-License-Identifier: Apache-2.0
//
// Softmax of one row of logits, and the two steps of learned-query pooling that are no matmul with packed
// weights.

// Two vectors of numerators 2^(score * factor + shift) at a time as far as they go; adds them to `sum` as they are
// stored. Returns how many.
template <class P>
LIGHTWAM_INLINE std::size_t exponential_pairs(const Softmax&, float, float, P*, vf&) {
    return 0;
}
#if LIGHTWAM_NATIVE_BF16
LIGHTWAM_INLINE std::size_t exponential_pairs(const Softmax& s, float factor, float shift, bf16_bits* probabilities,
                                              vf& sum) {
    const vu ones = vu{} + 0x3f803f80U;
    std::size_t i = 0;
    for (; i + 2 * kLanes <= s.count; i += 2 * kLanes) {
        const vf low = exp2(load(s.scores + i) * factor + shift);
        const vf high = exp2(load(s.scores + i + kLanes) * factor + shift);
        const __m512bh pair = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
        store_as(probabilities + i, reinterpret_cast<vu>(pair));
        sum = reinterpret_cast<vf>(
            _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), pair, reinterpret_cast<__m512bh>(ones)));
    }
    return i;
}
#endif

// Numerators exp(scale * (score - largest)) of logits that carry no bias. A NaN score may have lost in the maximum;
// here it makes the sum, and so the whole row, NaN.
template <class P>
LIGHTWAM_INLINE float exponentials(const Softmax& s, float scale, float largest, P* probabilities) {
    const float factor = scale * 1.44269504F;
    const float shift = -largest * factor;
    vf sum{};
    const std::size_t done = exponential_pairs(s, factor, shift, probabilities, sum);
    for_vectors(s.count - done, [&](std::size_t at, auto lanes) {
        const std::size_t i = done + at;
        const vf p = rounded(exp2(load(s.scores + i, lanes) * factor + shift), probabilities);
        store(probabilities + i, p, lanes);
        sum = sum + padded(p, lanes, 0.0F);
    });
    return sum_of_lanes(sum);
}

template <class P>
LIGHTWAM_INLINE float softmax_row(const Softmax& s, P* probabilities) {
    vf best = splat(-__builtin_inff());
    if (s.bias == nullptr) {
        for_vectors(s.count, [&](std::size_t i, auto lanes) {
            best = at_least(padded(load(s.scores + i, lanes), lanes, -__builtin_inff()), best);
        });
        return exponentials(s, s.scale, maximum_of_lanes(best), probabilities);
    }
    for_vectors(s.count, [&](std::size_t i, auto lanes) {
        const vf v = load(s.scores + i, lanes) * s.scale + load(s.bias + i, lanes);
        store(s.scores + i, v, lanes);
        best = at_least(padded(v, lanes, -__builtin_inff()), best);
    });
    return exponentials(s, 1.0F, maximum_of_lanes(best), probabilities);
}

float normalized_softmax(const Softmax& s) {
    const float sum = softmax_row(s, s.scores);
    const float inverse = 1.0F / sum;
    with_types(Input{s.scores, DType::f32}, s.probabilities, [&](const auto* scores, auto* probabilities) {
        for_vectors(s.count, [&](std::size_t i, auto lanes) {
            store(probabilities + i, load(scores + i, lanes) * inverse, lanes);
        });
    });
    return sum;
}

float softmax(const Softmax& s) noexcept {
    if (s.normalized) return normalized_softmax(s);
    if (s.probabilities.dtype == DType::f32) return softmax_row(s, static_cast<float*>(s.probabilities.data));
    return softmax_row(s, static_cast<bf16_bits*>(s.probabilities.data));
}

// weights[s, m] = sum_q merge[m, q] softmax_s(logits)[s, q], for the queries of one head.
void pool_softmax(const PoolSoftmax& p) noexcept {
    for_vectors(p.queries, [&](std::size_t q, auto lanes) {
        vf best = splat(-__builtin_inff());
        for (std::size_t s = 0; s < p.tokens; ++s) best = at_least(load(p.logits + s * p.stride + q, lanes), best);
        vf sum{};
        for (std::size_t s = 0; s < p.tokens; ++s) sum = sum + exp(load(p.logits + s * p.stride + q, lanes) - best);
        store(p.maximum + q, best, lanes);
        store(p.inverse_sum + q, 1.0F / sum, lanes);
    });
    for (std::size_t s = 0; s < p.tokens; ++s) {
        for (std::size_t m = 0; m < p.slots; ++m) {
            vf sum{};
            for_vectors(p.queries, [&](std::size_t q, auto lanes) {
                const vf probability = exp(load(p.logits + s * p.stride + q, lanes) - load(p.maximum + q, lanes)) *
                                       load(p.inverse_sum + q, lanes);
                sum = sum + padded(probability * load(p.merge + m * p.queries + q, lanes), lanes, 0.0F);
            });
            p.weights[s * p.weight_stride + m * p.slot_stride] = sum_of_lanes(sum);
        }
    }
}

// y [outputs, width]: columns [begin, end) of weights^T rows.
void weighted_sum(const WeightedSum& w, std::size_t begin, std::size_t end) noexcept {
    with_types(Input{w.rows_data, w.dtype}, w.y, [&](const auto* rows, auto* y) {
        constexpr std::size_t kOutputs = 8;
        for (std::size_t o = 0; o < w.outputs; o += kOutputs) {
            const std::size_t outputs = w.outputs - o < kOutputs ? w.outputs - o : kOutputs;
            for_vectors(end - begin, [&](std::size_t c, auto lanes) {
                vf sum[kOutputs] = {};
                for (std::size_t s = 0; s < w.tokens; ++s) {
                    const vf x = load(rows + s * w.width + begin + c, lanes);
                    const float* weights = w.weights + s * w.outputs + o;
                    if (outputs == kOutputs) {
                        for (std::size_t i = 0; i < kOutputs; ++i) sum[i] += x * weights[i];
                    } else {
                        for (std::size_t i = 0; i < outputs; ++i) sum[i] += x * weights[i];
                    }
                }
                for (std::size_t i = 0; i < outputs; ++i) store(y + (o + i) * w.width + begin + c, sum[i], lanes);
            });
        }
    });
}
