// SPDX-License-Identifier: Apache-2.0
//
// Image preprocessing: antialiased bilinear resize with rotation and any strides, against a direct double sum.
#include "check.hpp"

namespace cpu = lightwam::cpu;
using check::Buffer;
using check::DType;

namespace {

// Triangle filter of one direction, written from its definition: every input position weighs max(0, 1 - |distance|).
std::vector<double> filter(std::size_t in, std::size_t out, std::size_t o) {
    const double scale = static_cast<double>(in) / static_cast<double>(out);
    const double support = std::max(scale, 1.0);
    const double center = (static_cast<double>(o) + 0.5) * scale;
    std::vector<double> weights(in);
    double sum = 0.0;
    for (std::size_t i = 0; i < in; ++i) {
        weights[i] = std::max(0.0, 1.0 - std::abs((static_cast<double>(i) + 0.5 - center) / support));
        sum += weights[i];
    }
    for (double& w : weights) w /= sum;
    return weights;
}

struct Image {
    std::size_t height, width;
    bool rotate;
    std::vector<std::uint8_t> bytes;  // [height, width, 3] dense
    std::uint8_t at(std::size_t y, std::size_t x, std::size_t c) const {
        if (rotate) {
            y = height - 1 - y;
            x = width - 1 - x;
        }
        return bytes[(y * width + x) * 3 + c];
    }
};

Image random_image(std::size_t height, std::size_t width, bool rotate, std::uint64_t seed) {
    Image image{height, width, rotate, std::vector<std::uint8_t>(height * width * 3)};
    check::Random random(seed);
    for (auto& b : image.bytes) b = static_cast<std::uint8_t>((random() + 1.0) * 127.99);
    return image;
}

void add_reference(std::vector<double>& canvas, std::size_t canvas_width, const Image& image, std::size_t top,
                   std::size_t left, std::size_t height, std::size_t width) {
    for (std::size_t oy = 0; oy < height; ++oy) {
        const std::vector<double> rows = filter(image.height, height, oy);
        for (std::size_t ox = 0; ox < width; ++ox) {
            const std::vector<double> columns = filter(image.width, width, ox);
            for (std::size_t c = 0; c < 3; ++c) {
                double sum = 0.0;
                for (std::size_t y = 0; y < image.height; ++y) {
                    if (rows[y] == 0.0) continue;
                    for (std::size_t x = 0; x < image.width; ++x) sum += rows[y] * columns[x] * image.at(y, x, c);
                }
                canvas[((top + oy) * canvas_width + left + ox) * 3 + c] = (sum / 255.0 - 0.5) / 0.5;
            }
        }
    }
}

void test_two_cameras(std::size_t height, std::size_t width, bool rotate, DType out) {
    const std::size_t canvas_height = 16, left_width = 16, right_width = 11;
    const Image first = random_image(height, width, rotate, 1);
    const Image second = random_image(16, 11, !rotate, 2);  // already the right size
    std::vector<double> reference(canvas_height * (left_width + right_width) * 3);
    add_reference(reference, left_width + right_width, first, 0, 0, 16, left_width);
    add_reference(reference, left_width + right_width, second, 0, left_width, 16, right_width);
    const cpu::ResizePlan plans[] = {{height, width, 16, left_width, 3}, {16, 11, 16, right_width, 3}};
    check::that(plans[0].fits(height, width) && !plans[0].fits(height + 1, width), "fits");
    // The first image lies channel by channel, with rows and columns stored backwards: every stride is unusual.
    std::vector<std::uint8_t> planes(height * width * 3);
    for (std::size_t i = 0; i < height * width; ++i) {
        for (std::size_t c = 0; c < 3; ++c)
            planes[c * height * width + height * width - 1 - i] = first.bytes[i * 3 + c];
    }
    // The second one lies packed with its last channel first, as BGR frames are read.
    std::vector<std::uint8_t> reversed(second.bytes.size());
    for (std::size_t i = 0; i < reversed.size(); ++i) reversed[i] = second.bytes[i - i % 3 + 2 - i % 3];
    const std::uint8_t* const pixels = rotate ? reversed.data() + 2 : second.bytes.data();
    const auto columns = static_cast<std::ptrdiff_t>(width);
    const cpu::CameraImage cameras[] = {{planes.data() + height * width - 1, -columns, -1,
                                         static_cast<std::ptrdiff_t>(height * width), rotate, 0, 0, &plans[0]},
                                        {pixels, 33, 3, rotate ? -1 : 1, !rotate, 0, left_width, &plans[1]}};
    Buffer y(out, reference.size());
    check::op("preprocess_images " + std::to_string(height) + "x" + std::to_string(width) + " " + check::name(out),
              cpu::PreprocessImagesArgs{canvas_height, left_width + right_width, cameras, 2, y.output()}, y, reference,
              check::tolerance(out));
}

}  // namespace

int main() {
    for (const DType out : check::kTypes) {
        for (const bool rotate : {false, true}) {
            test_two_cameras(16, 16, rotate, out);
            test_two_cameras(37, 61, rotate, out);
            test_two_cameras(5, 7, rotate, out);
            test_two_cameras(1, 1, rotate, out);
            test_two_cameras(32, 480, rotate, out);
        }
    }
    return check::finish("preprocess");
}
