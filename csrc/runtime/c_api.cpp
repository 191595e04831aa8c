// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstdio>
#include <exception>
#include <new>

#include "lightwam/policy.h"
#include "lightwam/policy.hpp"

struct lightwam_policy {
    lightwam::Policy policy;
};

namespace {

constexpr std::size_t kMaxCameras = 64;

thread_local std::array<char, 1024> last_error{};

lightwam_status fail(lightwam_status status, const char* message) noexcept {
    std::snprintf(last_error.data(), last_error.size(), "%s", message);
    return status;
}

// Runs `body`, turning every exception into a status.
template <typename Body>
lightwam_status guarded(Body&& body) noexcept {
    try {
        return body();
    } catch (const lightwam::Error& error) {
        return fail(static_cast<lightwam_status>(error.kind()), error.what());
    } catch (const std::bad_alloc&) {
        return fail(LIGHTWAM_INTERNAL_ERROR, "out of memory");
    } catch (const std::exception& error) {
        return fail(LIGHTWAM_INTERNAL_ERROR, error.what());
    } catch (...) {
        return fail(LIGHTWAM_INTERNAL_ERROR, "an unknown error");
    }
}

}  // namespace

extern "C" {

lightwam_status lightwam_policy_open(const char* path, const lightwam_options* options, lightwam_policy** policy) {
    if (path == nullptr || policy == nullptr) return fail(LIGHTWAM_INTERNAL_ERROR, "path or policy is null");
    *policy = nullptr;
    return guarded([&] {
        lightwam::PolicyOptions chosen;
        if (options != nullptr) {
            if (options->device != nullptr) chosen.device = options->device;
            if (options->precision != nullptr) chosen.precision = options->precision;
            if (options->color_order != nullptr) chosen.color_order = options->color_order;
            if (options->unfamiliar != nullptr) chosen.unfamiliar = options->unfamiliar;
            chosen.threads = options->threads;
        }
        *policy = new lightwam_policy{lightwam::Policy(path, chosen)};
        return LIGHTWAM_OK;
    });
}

void lightwam_policy_close(lightwam_policy* policy) { delete policy; }

lightwam_status lightwam_policy_sizes(const lightwam_policy* policy, lightwam_sizes* sizes) {
    if (policy == nullptr || sizes == nullptr) return fail(LIGHTWAM_INTERNAL_ERROR, "policy or sizes is null");
    const lightwam::PolicyInfo& info = policy->policy.info();
    *sizes = {info.state_width, info.action_width, info.horizon, info.replan_steps,
              static_cast<int64_t>(info.cameras.size())};
    return LIGHTWAM_OK;
}

const char* lightwam_policy_camera(const lightwam_policy* policy, int64_t camera) {
    if (policy == nullptr) return nullptr;
    const auto& cameras = policy->policy.info().cameras;
    if (camera < 0 || camera >= static_cast<int64_t>(cameras.size())) return nullptr;
    return cameras[static_cast<std::size_t>(camera)].name.c_str();
}

const char* lightwam_policy_device(const lightwam_policy* policy) {
    return policy == nullptr ? nullptr : policy->policy.info().device.c_str();
}

const char* lightwam_policy_execution_info(const lightwam_policy* policy) {
    return policy == nullptr ? nullptr : policy->policy.info().execution_info.c_str();
}

const char* lightwam_policy_run_path(const lightwam_policy* policy) { return lightwam_policy_execution_info(policy); }

const char* lightwam_policy_warning(const lightwam_policy* policy) {
    return policy == nullptr ? nullptr : policy->policy.info().warning.c_str();
}

const char* lightwam_policy_metadata(const lightwam_policy* policy) {
    return policy == nullptr ? nullptr : policy->policy.info().metadata_json.c_str();
}

lightwam_status lightwam_policy_set_instruction(lightwam_policy* policy, const char* text) {
    if (policy == nullptr || text == nullptr) return fail(LIGHTWAM_INTERNAL_ERROR, "policy or text is null");
    return guarded([&] {
        policy->policy.set_instruction(text);
        return LIGHTWAM_OK;
    });
}

lightwam_status lightwam_policy_infer(lightwam_policy* policy, const lightwam_observation* observation, float* actions,
                                      size_t action_count, double* seconds) {
    if (policy == nullptr || observation == nullptr)
        return fail(LIGHTWAM_INTERNAL_ERROR, "policy or observation is null");
    if (observation->image_count > kMaxCameras || (observation->image_count > 0 && observation->images == nullptr))
        return fail(LIGHTWAM_OBSERVATION_ERROR, "the images are missing or more than 64");
    return guarded([&] {
        std::array<lightwam::ImageView, kMaxCameras> images;
        for (std::size_t i = 0; i < observation->image_count; ++i) {
            const lightwam_image& image = observation->images[i];
            if (image.camera == nullptr) return fail(LIGHTWAM_OBSERVATION_ERROR, "an image's camera name is null");
            images[i] = {image.camera,     image.pixels,        image.height,        image.width,
                         image.row_stride, image.column_stride, image.channel_stride};
        }
        const lightwam::Observation view{images.data(),        observation->image_count,
                                         observation->latents, observation->latent_count,
                                         observation->state,   observation->state_width};
        lightwam::Timings timings;
        policy->policy.infer(view, actions, action_count, &timings);
        if (seconds != nullptr) *seconds = timings.total;
        return LIGHTWAM_OK;
    });
}

const char* lightwam_last_error(void) { return last_error.data(); }

}  // extern "C"
