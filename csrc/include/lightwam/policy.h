/* SPDX-License-Identifier: Apache-2.0 */
/* The policy for C and for other languages. No function throws or aborts: each that can fail returns a status, and
 * lightwam_last_error() gives this thread's last message, one line.
 *
 * A policy works in the process that opened it. In the child of a fork set_instruction and infer answer
 * LIGHTWAM_DEVICE_ERROR, and closing it gives nothing back; a child opens policies of its own. */
#ifndef LIGHTWAM_POLICY_H
#define LIGHTWAM_POLICY_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define LIGHTWAM_C_API __attribute__((visibility("default")))
#else
#define LIGHTWAM_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lightwam_status {
    LIGHTWAM_OK = 0,
    LIGHTWAM_ENGINE_ERROR = 1,
    LIGHTWAM_OBSERVATION_ERROR = 2,
    LIGHTWAM_INSTRUCTION_ERROR = 3,
    LIGHTWAM_PRECISION_ERROR = 4,
    LIGHTWAM_DEVICE_ERROR = 5,
    LIGHTWAM_INTERNAL_ERROR = 6
} lightwam_status;

typedef struct lightwam_policy lightwam_policy;

/* How to open an engine. All zeros is the default. */
typedef struct lightwam_options {
    const char* device;      /* "cpu", "cuda", or "auto": a GPU if it can, else the CPU; null is "cpu" */
    const char* precision;   /* "auto" (the engine's) or one of its names; null is "auto" */
    int threads;             /* on the CPU; 0: one per CPU this process may use */
    const char* color_order; /* of all frames: "rgb", or "bgr" (OpenCV, many cameras); null is "rgb" */
    /* What to do about a state far outside of the range seen in training, and about words that the text encoder never
     * saw: "warn" (a line on standard error, once each), "error" or "ignore"; null is "warn". */
    const char* unfamiliar;
} lightwam_options;

/* One camera's frame: unsigned bytes, 3 channels, red first (or as color_order says). Strides in bytes, negative ones
 * too; packed RGB has 3 * width, 3, 1. No two bytes of a frame may be the same one, so zero is an error. */
typedef struct lightwam_image {
    const char* camera;
    const uint8_t* pixels;
    int64_t height;
    int64_t width;
    int64_t row_stride;
    int64_t column_stride;
    int64_t channel_stride;
} lightwam_image;

typedef struct lightwam_observation {
    const lightwam_image* images; /* for an engine that starts at images, else null */
    size_t image_count;
    const float* latents; /* [C, h, w] for an engine that starts at latents, else null */
    size_t latent_count;
    const float* state; /* [P], robot units */
    size_t state_width;
} lightwam_observation;

/* Sizes of an engine. */
typedef struct lightwam_sizes {
    int64_t state_width;
    int64_t action_width;
    int64_t horizon;
    int64_t replan; /* actions to execute before the next chunk: replan_steps in C++ and Python */
    int64_t camera_count;
} lightwam_sizes;

/* Opens an engine file; options: null is the default. *policy is null after an error. LIGHTWAM_DEVICE_ERROR: an unknown
 * device, or "cuda" where there is no driver, no GPU that the engine has machine code for, or too little memory. */
LIGHTWAM_C_API lightwam_status lightwam_policy_open(const char* path, const lightwam_options* options,
                                                    lightwam_policy** policy);
LIGHTWAM_C_API void lightwam_policy_close(lightwam_policy* policy);
LIGHTWAM_C_API lightwam_status lightwam_policy_sizes(const lightwam_policy* policy, lightwam_sizes* sizes);
/* Name of a camera, valid as long as the policy; null when there is no such camera. */
LIGHTWAM_C_API const char* lightwam_policy_camera(const lightwam_policy* policy, int64_t camera);
/* "cpu" or "cuda"; and one line on what runs, and why; and one when it runs slower than it might, else an empty text.
 * Valid as long as the policy; null for a null policy. */
LIGHTWAM_C_API const char* lightwam_policy_device(const lightwam_policy* policy);
LIGHTWAM_C_API const char* lightwam_policy_execution_info(const lightwam_policy* policy);
LIGHTWAM_C_API const char* lightwam_policy_warning(const lightwam_policy* policy);
/* Deprecated, gone in the next release: the old name of lightwam_policy_execution_info. */
LIGHTWAM_C_API const char* lightwam_policy_run_path(const lightwam_policy* policy);
/* The engine's JSON document (engine-format.md): cameras, names, units and ranges of state and action. Valid as long as
 * the policy; null for a null policy. */
LIGHTWAM_C_API const char* lightwam_policy_metadata(const lightwam_policy* policy);
/* text: UTF-8. */
LIGHTWAM_C_API lightwam_status lightwam_policy_set_instruction(lightwam_policy* policy, const char* text);
/* Writes horizon * action_width floats. seconds: null, or where the wall time goes. A policy whose GPU is lost answers
 * LIGHTWAM_DEVICE_ERROR from then on: close it and open another. */
LIGHTWAM_C_API lightwam_status lightwam_policy_infer(lightwam_policy* policy, const lightwam_observation* observation,
                                                     float* actions, size_t action_count, double* seconds);
/* This thread's last error; an empty text before the first. Valid until the thread's next error. */
LIGHTWAM_C_API const char* lightwam_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
