// SPDX-License-Identifier: Apache-2.0
#include "runtime/cameras.hpp"

#include <algorithm>
#include <string>

namespace lightwam::runtime {
namespace {

// Bytes of a frame are counted in 32 bits on a GPU (kernels/preprocess_images.py).
constexpr std::int64_t kMaxImageSize = 1 << 14;
constexpr std::size_t kAbsent = engine::npos;

[[noreturn]] void fail(const std::string& why) { throw Error(ErrorKind::observation, why); }

std::string names(const std::vector<CameraInfo>& cameras) {
    std::string text;
    for (const CameraInfo& camera : cameras) text += (text.empty() ? "'" : ", '") + camera.name + "'";
    return text.empty() ? "none" : text;
}

void check_image(const ImageView& image) {
    const auto subject = [&] { return "image of camera '" + std::string(image.camera) + "'"; };
    if (image.height < 1 || image.width < 1 || image.height > kMaxImageSize || image.width > kMaxImageSize)
        fail(subject() + " is " + std::to_string(image.height) + " x " + std::to_string(image.width) +
             " pixels; expected 1 to 16384 in both directions");
    if (image.pixels == nullptr) fail(subject() + " has no pixels");
}

}  // namespace

Cameras::Cameras(const std::vector<CameraInfo>& cameras) : cameras_(cameras), images_(cameras.size()) {}

std::size_t Cameras::find(std::string_view name) const {
    for (std::size_t i = 0; i < cameras_.size(); ++i)
        if (cameras_[i].name == name) return i;
    return kAbsent;
}

const ImageView* const* Cameras::accept(const Observation& observation) {
    std::fill(images_.begin(), images_.end(), nullptr);
    for (std::size_t at = 0; at < observation.image_count; ++at) {
        const ImageView& image = observation.images[at];
        const std::size_t camera = find(image.camera);
        if (camera == kAbsent)
            fail("camera '" + std::string(image.camera) + "' is not one of this engine; expected " + names(cameras_));
        if (images_[camera] != nullptr) fail("camera '" + cameras_[camera].name + "' is there twice");
        check_image(image);
        images_[camera] = &image;
    }
    for (std::size_t i = 0; i < cameras_.size(); ++i)
        if (images_[i] == nullptr) fail("camera '" + cameras_[i].name + "' is missing; expected " + names(cameras_));
    return images_.data();
}

}  // namespace lightwam::runtime
