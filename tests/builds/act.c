/* SPDX-License-Identifier: Apache-2.0 */
/* A program of somebody else, in C: runs an engine once on made-up frames and prints its actions, one a line.
 * act ENGINE INSTRUCTION. tests/builds/act.cpp and act.py do the same, so that builds can be compared. */
#include <lightwam/policy.h>
#include <stdio.h>
#include <stdlib.h>

enum { kSize = 96, kMaxCameras = 8 };

static int fail(const char* what) {
    fprintf(stderr, "%s: %s\n", what, lightwam_last_error());
    return 1;
}

int main(int argc, char** argv) {
    static uint8_t pixels[kSize * kSize * 3];
    lightwam_options options = {.threads = 0};
    lightwam_observation observation = {NULL, 0, NULL, 0, NULL, 0};
    lightwam_image images[kMaxCameras];
    lightwam_policy* policy = NULL;
    lightwam_sizes sizes;
    float* state;
    float* actions;
    size_t i, count;

    if (argc != 3) return 2;
    options.threads = 1;
    if (lightwam_policy_open(argv[1], &options, &policy) != LIGHTWAM_OK) return fail("open");
    if (lightwam_policy_set_instruction(policy, argv[2]) != LIGHTWAM_OK) return fail("set_instruction");
    if (lightwam_policy_sizes(policy, &sizes) != LIGHTWAM_OK || sizes.camera_count > kMaxCameras) return fail("sizes");
    for (i = 0; i < sizeof(pixels); ++i) pixels[i] = (uint8_t)(i * 37 % 251);
    for (i = 0; i < (size_t)sizes.camera_count; ++i) {
        const lightwam_image image = {
            lightwam_policy_camera(policy, (int64_t)i), pixels, kSize, kSize, kSize * 3, 3, 1};
        images[i] = image;
    }
    count = (size_t)(sizes.horizon * sizes.action_width);
    state = calloc((size_t)sizes.state_width, sizeof(float));
    actions = calloc(count, sizeof(float));
    if (state == NULL || actions == NULL) return 2;
    observation.images = images;
    observation.image_count = (size_t)sizes.camera_count;
    observation.state = state;
    observation.state_width = (size_t)sizes.state_width;
    if (lightwam_policy_infer(policy, &observation, actions, count, NULL) != LIGHTWAM_OK) return fail("infer");
    for (i = 0; i < count; ++i) printf("%.9g\n", (double)actions[i]);
    fprintf(stderr, "%s\n", lightwam_policy_execution_info(policy));
    lightwam_policy_close(policy);
    free(state);
    free(actions);
    return 0;
}
