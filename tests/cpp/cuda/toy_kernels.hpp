// SPDX-License-Identifier: Apache-2.0
// The stand-in driver in this process, and the kernels of tests/data/engines/small_gpu.lwam and small_side.lwam (made
// by tests/python/runtime/gpu_plans.py and gpu_side_plan.py) computed on the CPU.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "../runtime/small_engine.hpp"
#include "standin.h"

namespace lightwam::test {

inline constexpr std::size_t kWidth = 8;
inline constexpr std::size_t kStateWidth = 5;
inline constexpr std::size_t kKeys = 48;  // [6, 8]

// The functions of the stand-in, which is loaded by its path and then found as libcuda.so.1.
struct Standin {
    explicit Standin(const char* path) : library(::dlopen(path, RTLD_NOW | RTLD_GLOBAL)) {
        if (library == nullptr) {
            std::fprintf(stderr, "%s\n", ::dlerror());
            std::exit(2);
        }
        look_up(set_launcher, "standin_set_launcher");
        look_up(set_device, "standin_set_device");
        look_up(fail, "standin_fail");
        look_up(advance_clock, "standin_advance_clock");
        look_up(set_order, "standin_set_order");
        look_up(calls, "standin_calls");
        look_up(live, "standin_live");
        look_up(leaked, "standin_leaked");
        look_up(peak_device_bytes, "standin_peak_device_bytes");
        look_up(bytes_from, "standin_bytes_from");
        look_up(misuse, "standin_misuse");
    }
    template <typename Pointer>
    void look_up(Pointer& function, const char* name) {
        function = reinterpret_cast<Pointer>(::dlsym(library, name));
        if (function == nullptr) std::exit(2);
    }
    // Objects of every kind.
    std::uint64_t alive() const {
        std::uint64_t total = 0;
        for (const char* kind : {"device", "host", "modules", "streams", "graphs", "execs", "events", "contexts"})
            total += live(kind);
        return total;
    }

    void* library;
    decltype(&standin_set_launcher) set_launcher = nullptr;
    decltype(&standin_set_device) set_device = nullptr;
    decltype(&standin_fail) fail = nullptr;
    decltype(&standin_advance_clock) advance_clock = nullptr;
    decltype(&standin_set_order) set_order = nullptr;
    decltype(&standin_calls) calls = nullptr;
    decltype(&standin_live) live = nullptr;
    decltype(&standin_leaked) leaked = nullptr;
    decltype(&standin_peak_device_bytes) peak_device_bytes = nullptr;
    decltype(&standin_bytes_from) bytes_from = nullptr;
    decltype(&standin_misuse) misuse = nullptr;
};

// keys = context * text_rows.
inline void encode(const float* context, const std::int32_t* text_rows, float* keys) {
    for (std::size_t i = 0; i < kKeys; ++i) keys[i] = context[i] * static_cast<float>(*text_rows);
}

// y = [mean of frame 0, of frame 1, their sizes, 0, 0].
inline void look(const std::uint8_t* const frames[2], const std::int32_t* sizes, float* y) {
    for (std::size_t camera = 0; camera < 2; ++camera) {
        const std::int32_t count = sizes[2 * camera] * sizes[2 * camera + 1] * 3;
        double sum = 0.0;
        for (std::int32_t i = 0; i < count; ++i) sum += frames[camera][i];
        y[camera] = static_cast<float>(sum / count / 255.0);
    }
    for (std::size_t i = 0; i < 4; ++i) y[2 + i] = static_cast<float>(sizes[i]);
    y[6] = y[7] = 0.0F;
}

// y = weight state + bias + x + the sum of each column of the keys.
inline void mix(const float* keys, const float* x, const float* weight, const float* bias, const float* state,
                float* y) {
    for (std::size_t j = 0; j < kWidth; ++j) {
        y[j] = bias[j] + x[j];
        for (std::size_t k = 0; k < kStateWidth; ++k) y[j] += weight[j * kStateWidth + k] * state[k];
        for (std::size_t i = 0; i < kKeys; i += kWidth) y[j] += keys[i + j];
    }
}

// y = weight state + bias + x: of small_linear.lwam.
inline void project(const float* state, const float* weight, const float* bias, const float* x, float* y) {
    for (std::size_t j = 0; j < kWidth; ++j) {
        y[j] = bias[j] + x[j];
        for (std::size_t k = 0; k < kStateWidth; ++k) y[j] += weight[j * kStateWidth + k] * state[k];
    }
}

inline void twice(const float* x, float* y) {
    for (std::size_t j = 0; j < kWidth; ++j) y[j] = 2.0F * x[j];
}

inline void act(const float* x, float* y) {
    for (std::size_t i = 0; i < kActions; ++i) y[i] = x[i % kWidth];
}

// "mix" for mix_kernel and its other tactic, mix_kernel_1.
inline std::string_view toy_name(const standin_launch* launch) {
    const std::string_view entry = launch->entry;
    return entry.substr(0, entry.find("_kernel"));
}

inline void drive(const float* state, float* y) {
    for (std::size_t j = 0; j < kWidth; ++j) y[j] = state[j % kStateWidth];
}

inline void add(const float* a, const float* b, std::size_t count, float* y) {
    for (std::size_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

// Computes a launch; `user` is null, or a counter of launches.
inline int run_toy(void* user, const standin_launch* launch) {
    const auto read = [&](std::size_t i) { return reinterpret_cast<const float*>(launch->arguments[i]); };
    const auto write = [&](std::size_t i) { return reinterpret_cast<float*>(launch->arguments[i]); };
    const auto integers = [&](std::size_t i) { return reinterpret_cast<const std::int32_t*>(launch->arguments[i]); };
    const std::string_view entry = toy_name(launch);
    const std::size_t count = launch->argument_count - 2;
    if (launch->arguments[count] != 0 || launch->arguments[count + 1] != 0) return 1;  // scratch memory
    if (launch->grid[0] != 2 || launch->grid[1] != 1 || launch->grid[2] != 1 || launch->threads != 64) return 1;
    if (launch->shared != (entry == "mix" ? 50'000U : 0U)) return 1;
    if (user != nullptr) ++*static_cast<int*>(user);
    if (entry == "encode") {
        encode(read(0), integers(1), write(2));
    } else if (entry == "look") {
        const std::uint8_t* const frames[2] = {reinterpret_cast<const std::uint8_t*>(launch->arguments[0]),
                                               reinterpret_cast<const std::uint8_t*>(launch->arguments[1])};
        look(frames, integers(2), write(3));
    } else if (entry == "project") {
        project(read(0), read(1), read(2), read(3), write(4));
    } else if (entry == "mix") {
        mix(read(0), read(1), read(2), read(3), read(4), write(5));
    } else if (entry == "double") {
        twice(read(0), write(1));
    } else if (entry == "act") {
        act(read(0), write(1));
    } else if (entry == "drive") {
        drive(read(0), write(1));
    } else if (entry == "add" || entry == "merge") {
        add(read(0), read(1), entry == "add" ? kWidth : kKeys, write(2));
    } else {
        return 1;
    }
    return 0;
}

inline constexpr std::uint64_t kGigabyte = std::uint64_t{1} << 30;

inline PolicyOptions on_cuda() {
    PolicyOptions options;
    options.device = "cuda";
    return options;
}

}  // namespace lightwam::test
