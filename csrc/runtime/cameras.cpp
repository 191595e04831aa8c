// SPDX-License-Identifier: Apache-2.0
#include "runtime/cameras.hpp"

#include <string>

namespace lightwam::runtime {
namespace {

constexpr std::int64_t kMaxImageSize = 1 << 16;
constexpr std::size_t kAbsent = engine::npos;

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorKind::observation, why); }

std::string names(const std::vector<CameraInfo>& cameras) {
    std::string text;
    for (const CameraInfo& camera : cameras) text += (text.empty() ? "'" : ", '") + camera.name + "'";
    return text.empty() ? "none" : text;
}

void check_image(const ImageView& image) {
    const auto subject = [&] { return "image of camera '" + std::string(image.camera) + "'"; };
    if (image.height < 1 || image.width < 1 || image.height > kMaxImageSize || image.width > kMaxImageSize)
        refuse(subject() + " is " + std::to_string(image.height) + " x " + std::to_string(image.width) +
               " pixels; expected 1 to 65536 in both directions");
    if (image.pixels == nullptr) refuse(subject() + " has no pixels");
}

}  // namespace

Cameras::Cameras(const std::vector<CameraInfo>& cameras, int threads)
    : cameras_(cameras), threads_(threads), images_(cameras.size()), plans_(cameras.size()), order_(cameras.size()) {
    for (std::size_t i = 0; i < cameras.size(); ++i) {
        images_[i].rotate_180 = cameras[i].rotate_180;
        images_[i].top = static_cast<std::size_t>(cameras[i].top);
        images_[i].left = static_cast<std::size_t>(cameras[i].left);
        images_[i].plan = &plans_[i];
    }
}

std::size_t Cameras::find(std::string_view name) const {
    for (std::size_t i = 0; i < cameras_.size(); ++i)
        if (cameras_[i].name == name) return i;
    return kAbsent;
}

void Cameras::accept(const Observation& observation) {
    order_.assign(cameras_.size(), kAbsent);
    for (std::size_t at = 0; at < observation.image_count; ++at) {
        const ImageView& image = observation.images[at];
        const std::size_t camera = find(image.camera);
        if (camera == kAbsent)
            refuse("camera '" + std::string(image.camera) + "' is not one of this engine; expected " + names(cameras_));
        if (order_[camera] != kAbsent) refuse("camera '" + cameras_[camera].name + "' is there twice");
        check_image(image);
        order_[camera] = at;
    }
    for (std::size_t i = 0; i < cameras_.size(); ++i)
        if (order_[i] == kAbsent) refuse("camera '" + cameras_[i].name + "' is missing; expected " + names(cameras_));
    for (std::size_t i = 0; i < cameras_.size(); ++i) {
        const ImageView& image = observation.images[order_[i]];
        const std::size_t height = static_cast<std::size_t>(image.height);
        const std::size_t width = static_cast<std::size_t>(image.width);
        if (!plans_[i].fits(height, width)) {
            plans_[i] = cpu::ResizePlan(height, width, static_cast<std::size_t>(cameras_[i].height),
                                        static_cast<std::size_t>(cameras_[i].width), threads_);
            ++plans_built_;
        }
        images_[i].pixels = image.pixels;
        images_[i].row_stride = image.row_stride;
        images_[i].column_stride = image.column_stride;
        images_[i].channel_stride = image.channel_stride;
    }
}

}  // namespace lightwam::runtime
