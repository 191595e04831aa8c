// SPDX-License-Identifier: Apache-2.0
//
// The two passes of the image resize: weighted sum of input rows, then of columns.

void resize_rows(const ResizeRows& a) noexcept {
    const bool dense = a.column_stride == 3 && a.channel_stride == 1;
    const std::size_t values = a.in_width * 3;
    for (std::size_t i = 0; i < a.count; ++i) {
        const std::uint8_t* row = a.pixels + static_cast<std::ptrdiff_t>(a.first + i) * a.row_stride;
        const float weight = a.weights[i];
        std::size_t at = 0;
        if (dense) {
            for (; at + kLanes <= values; at += kLanes) {
                const vf v = __builtin_convertvector(load_as<vb>(row + at), vf) * weight;
                store(a.sums + at, i == 0 ? v : load(a.sums + at) + v);
            }
        }
        for (; at < values; ++at) {
            const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(at / 3) * a.column_stride;
            const float v =
                static_cast<float>(row[pixel + static_cast<std::ptrdiff_t>(at % 3) * a.channel_stride]) * weight;
            a.sums[at] = i == 0 ? v : a.sums[at] + v;
        }
    }
}

// (v / 255 - 0.5) / 0.5 = v * (2 / 255) - 1; the weights sum to one, so it commutes with the resize.
void resize_columns(const ResizeColumns& a) noexcept {
    typedef float v4 __attribute__((vector_size(16)));  // three channels and one value that is dropped
    with_types(Input{a.sums, DType::f32}, a.y, [&](const auto*, auto* y) {
        for (std::size_t o = 0; o < a.out; ++o) {
            const float* column = a.sums + static_cast<std::ptrdiff_t>(a.first[o]) * a.step;
            const float* weights = a.weights + o * a.taps;
            v4 v{};
            for (std::size_t i = 0; i < a.count[o]; ++i, column += a.step) v += load_as<v4>(column) * weights[i];
            v = v * (2.0F / 255.0F) - 1.0F;
            for (std::size_t c = 0; c < 3; ++c) convert(v[c], y[o * 3 + c]);
        }
    });
}
