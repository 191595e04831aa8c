/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lightwam/policy.h"

static int failures = 0;

#define EXPECT(condition)                                                                           \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: expected %s; last error: %s\n", __FILE__, __LINE__, #condition, \
                    lightwam_last_error());                                                         \
            ++failures;                                                                             \
        }                                                                                           \
    } while (0)

static void test_errors(const char* path) {
    const lightwam_options in_bf16 = {.precision = "bf16", .threads = 1};
    const lightwam_options no_threads = {.device = "cpu", .threads = -3};
    const lightwam_options on_a_toaster = {.device = "toaster"};
    const lightwam_options on_a_gpu = {.device = "cuda"};
    lightwam_policy* policy = NULL;
    EXPECT(strcmp(lightwam_last_error(), "") == 0);
    EXPECT(lightwam_policy_open("no/such/file.lwam", NULL, &policy) == LIGHTWAM_ENGINE_ERROR);
    EXPECT(policy == NULL && strstr(lightwam_last_error(), "cannot be opened") != NULL);
    EXPECT(lightwam_policy_open(path, &in_bf16, &policy) == LIGHTWAM_PRECISION_ERROR);
    EXPECT(lightwam_policy_open(path, &no_threads, &policy) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(lightwam_policy_open(path, &on_a_toaster, &policy) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(strstr(lightwam_last_error(), "'toaster' is unknown; expected 'cpu', 'cuda' or 'auto'") != NULL);
    EXPECT(lightwam_policy_open(path, &on_a_gpu, &policy) == LIGHTWAM_DEVICE_ERROR);
    EXPECT(strstr(lightwam_last_error(), "has no machine code for a GPU") != NULL);
    EXPECT(lightwam_policy_open(NULL, NULL, &policy) == LIGHTWAM_INTERNAL_ERROR);
    EXPECT(policy == NULL);
    EXPECT(lightwam_policy_set_instruction(NULL, "x") == LIGHTWAM_INTERNAL_ERROR);
    EXPECT(lightwam_policy_camera(NULL, 0) == NULL);
    EXPECT(lightwam_policy_device(NULL) == NULL && lightwam_policy_warning(NULL) == NULL);
    EXPECT(lightwam_policy_execution_info(NULL) == NULL && lightwam_policy_run_path(NULL) == NULL);
    lightwam_policy_close(NULL);
}

static void test_policy(const char* path) {
    static uint8_t pixels[12 * 10 * 3];
    const float state[5] = {0.0f, 0.1f, 0.2f, 0.3f, 0.4f};
    float actions[12];
    double seconds = -1.0;
    const lightwam_options options = {.device = "auto", .precision = "auto", .threads = 1};
    lightwam_sizes sizes;
    lightwam_policy* policy = NULL;
    lightwam_image images[2];
    lightwam_observation observation;
    int i;

    for (i = 0; i < (int)sizeof(pixels); ++i) pixels[i] = (uint8_t)(i * 37);
    EXPECT(lightwam_policy_open(path, &options, &policy) == LIGHTWAM_OK);
    if (policy == NULL) return;
    EXPECT(strcmp(lightwam_policy_device(policy), "cpu") == 0 && strcmp(lightwam_policy_warning(policy), "") == 0);
    EXPECT(strstr(lightwam_policy_execution_info(policy), "the CPU") != NULL);
    EXPECT(strstr(lightwam_policy_execution_info(policy), "device 'auto': engine 'small' has no machine code") != NULL);
    EXPECT(lightwam_policy_sizes(policy, &sizes) == LIGHTWAM_OK);
    EXPECT(sizes.state_width == 5 && sizes.action_width == 3 && sizes.horizon == 4 && sizes.replan == 2);
    EXPECT(sizes.camera_count == 2 && lightwam_policy_camera(policy, 2) == NULL);
    for (i = 0; i < 2; ++i) {
        images[i].camera = lightwam_policy_camera(policy, i);
        images[i].pixels = pixels;
        images[i].height = 12;
        images[i].width = 10;
        images[i].row_stride = 30;
        images[i].column_stride = 3;
        images[i].channel_stride = 1;
    }
    memset(&observation, 0, sizeof(observation));
    observation.images = images;
    observation.image_count = 2;
    observation.state = state;
    observation.state_width = 5;
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, NULL) == LIGHTWAM_INSTRUCTION_ERROR);
    EXPECT(lightwam_policy_set_instruction(policy, "?!") == LIGHTWAM_INSTRUCTION_ERROR);
    EXPECT(lightwam_policy_set_instruction(policy, "pick up the soup") == LIGHTWAM_OK);
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 11, NULL) == LIGHTWAM_INTERNAL_ERROR);
    observation.image_count = 1;
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, NULL) == LIGHTWAM_OBSERVATION_ERROR);
    EXPECT(strstr(lightwam_last_error(), "is missing") != NULL);
    observation.image_count = 65;
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, NULL) == LIGHTWAM_OBSERVATION_ERROR);
    observation.image_count = 2;
    images[0].camera = NULL;
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, NULL) == LIGHTWAM_OBSERVATION_ERROR);
    images[0].camera = lightwam_policy_camera(policy, 0);
    EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, &seconds) == LIGHTWAM_OK);
    EXPECT(seconds >= 0.0);
    for (i = 0; i < 12; ++i) EXPECT(isfinite(actions[i]));
    lightwam_policy_close(policy);
}

static lightwam_status open_with(const char* path, const char* color_order, const char* unfamiliar,
                                 lightwam_policy** policy) {
    const lightwam_options options = {.threads = 1, .color_order = color_order, .unfamiliar = unfamiliar};
    return lightwam_policy_open(path, &options, policy);
}

/* What has the right form and the wrong meaning. */
static void test_meaning(const char* path) {
    static uint8_t rgb[12 * 10 * 3];
    static uint8_t bgr[12 * 10 * 3];
    const float state[5] = {0.0f, 0.1f, 0.2f, 0.3f, 0.4f};
    float expected[12];
    float actions[12];
    lightwam_policy* policy = NULL;
    lightwam_image images[2] = {{"agentview", rgb, 12, 10, 30, 3, 1}, {"wrist", rgb, 12, 10, 30, 3, 1}};
    const lightwam_observation seen = {.images = images, .image_count = 2, .state = state, .state_width = 5};
    int i;

    for (i = 0; i < (int)sizeof(rgb); ++i) rgb[i] = (uint8_t)(i * 37);
    for (i = 0; i < (int)sizeof(rgb); ++i) bgr[i] = rgb[i - i % 3 + 2 - i % 3];
    EXPECT(open_with(path, "rgba", NULL, &policy) == LIGHTWAM_OBSERVATION_ERROR && policy == NULL);
    EXPECT(strstr(lightwam_last_error(), "color_order is 'rgba'; expected 'rgb' or 'bgr'") != NULL);
    EXPECT(open_with(path, NULL, "loud", &policy) == LIGHTWAM_OBSERVATION_ERROR && policy == NULL);
    EXPECT(open_with(path, NULL, NULL, &policy) == LIGHTWAM_OK);
    EXPECT(strstr(lightwam_policy_metadata(policy), "\"state_width\": 5") != NULL);
    EXPECT(lightwam_policy_metadata(NULL) == NULL);
    EXPECT(lightwam_policy_set_instruction(policy, "pick up \xC3") == LIGHTWAM_INSTRUCTION_ERROR);
    EXPECT(strstr(lightwam_last_error(), "not valid UTF-8: byte 0xc3 at position 8") != NULL);
    EXPECT(lightwam_policy_set_instruction(policy, "\xEF\xBB\xBFpick\xC2\xA0up the soup\n") == LIGHTWAM_OK);
    EXPECT(lightwam_policy_infer(policy, &seen, expected, 12, NULL) == LIGHTWAM_OK);
    images[1].row_stride = images[1].column_stride = images[1].channel_stride = 0;
    EXPECT(lightwam_policy_infer(policy, &seen, actions, 12, NULL) == LIGHTWAM_OBSERVATION_ERROR);
    EXPECT(strstr(lightwam_last_error(), "camera 'wrist' has the strides 0, 0, 0 bytes") != NULL);
    lightwam_policy_close(policy);

    EXPECT(open_with(path, "bgr", "ignore", &policy) == LIGHTWAM_OK);
    EXPECT(lightwam_policy_set_instruction(policy, "pick up the soup") == LIGHTWAM_OK);
    images[1] = images[0];
    images[1].camera = "wrist";
    images[0].pixels = images[1].pixels = bgr;
    EXPECT(lightwam_policy_infer(policy, &seen, actions, 12, NULL) == LIGHTWAM_OK);
    EXPECT(memcmp(actions, expected, sizeof(actions)) == 0);
    lightwam_policy_close(policy);
}

int main(int argc, char** argv) {
    char path[4096];
    if (argc != 2) return 2;
    snprintf(path, sizeof(path), "%s/small_images.lwam", argv[1]);
    test_errors(path);
    test_policy(path);
    test_meaning(path);
    return failures == 0 ? 0 : 1;
}
