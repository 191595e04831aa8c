// SPDX-License-Identifier: Apache-2.0
#include "runtime/resize_plans.hpp"

namespace lightwam::runtime {

ResizePlans::ResizePlans(const std::vector<CameraInfo>& cameras, int threads)
    : cameras_(cameras), threads_(threads), images_(cameras.size()), plans_(cameras.size()) {
    for (std::size_t i = 0; i < cameras.size(); ++i) {
        images_[i].rotate_180 = cameras[i].rotate_180;
        images_[i].top = static_cast<std::size_t>(cameras[i].top);
        images_[i].left = static_cast<std::size_t>(cameras[i].left);
        images_[i].plan = &plans_[i];
    }
}

void ResizePlans::accept(const ImageView* const* images) {
    for (std::size_t i = 0; i < cameras_.size(); ++i) {
        const ImageView& image = *images[i];
        const std::size_t height = static_cast<std::size_t>(image.height);
        const std::size_t width = static_cast<std::size_t>(image.width);
        if (!plans_[i].fits(height, width)) {
            plans_[i] = cpu::ResizePlan(height, width, static_cast<std::size_t>(cameras_[i].height),
                                        static_cast<std::size_t>(cameras_[i].width), threads_);
            ++built_;
        }
        images_[i].pixels = image.pixels;
        images_[i].row_stride = image.row_stride;
        images_[i].column_stride = image.column_stride;
        images_[i].channel_stride = image.channel_stride;
    }
}

}  // namespace lightwam::runtime
