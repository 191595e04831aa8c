// SPDX-License-Identifier: Apache-2.0
// Not a byte of heap in infer after the first call: malloc, operator new and their relatives are counted. And what is
// left of a policy when one of them fails.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <string>

#include "expect.hpp"
#include "lightwam/policy.h"
#include "lightwam/policy.hpp"
#include "small_engine.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
std::atomic<long> failing{-1};  // the one that fails; -1: none

// Counts an allocation; false when it is to fail.
bool count() {
    if (!counting.load(std::memory_order_relaxed)) return true;
    return allocations.fetch_add(1, std::memory_order_relaxed) != failing.load(std::memory_order_relaxed);
}

}  // namespace

// operator new of libstdc++ calls malloc, so counting the C functions counts everything.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) { return count() ? __libc_malloc(size) : nullptr; }
void* calloc(std::size_t number, std::size_t size) { return count() ? __libc_calloc(number, size) : nullptr; }
void* realloc(void* old, std::size_t size) { return count() ? __libc_realloc(old, size) : nullptr; }
void* memalign(std::size_t alignment, std::size_t size) { return count() ? __libc_memalign(alignment, size) : nullptr; }
void* aligned_alloc(std::size_t alignment, std::size_t size) {
    return count() ? __libc_memalign(alignment, size) : nullptr;
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
    *out = count() ? __libc_memalign(alignment, size) : nullptr;
    return *out == nullptr ? ENOMEM : 0;
}
}

using namespace lightwam;
using namespace lightwam::test;

namespace {

template <typename Body>
long allocations_of(Body&& body) {
    allocations = 0;
    counting = true;
    body();
    counting = false;
    return allocations;
}

void test_infer(const std::string& path, bool images, int threads) {
    PolicyOptions options;
    options.threads = threads;
    Policy policy(path, options);
    policy.set_instruction(kTask);
    const SmallObservation seen;
    const SmallObservation larger(40, 44);
    float actions[12];
    Timings timings;
    const auto infer = [&](const SmallObservation& observation) {
        policy.infer(observation.view(images), actions, 12, &timings);
    };
    infer(seen);
    EXPECT(allocations_of([&] {
               for (int i = 0; i < 20; ++i) infer(seen);
           }) == 0);
    if (images) EXPECT(allocations_of([&] { infer(larger); }) > 0);  // a new size: the one thing that may allocate
    EXPECT(allocations_of([&] { infer(images ? larger : seen); }) == 0);
    policy.set_instruction(kTask);
    EXPECT(allocations_of([&] { infer(images ? larger : seen); }) == 0);
}

// True when set_instruction runs out of memory at its allocation number `at`.
bool fails_at(Policy& policy, const char* text, long at) {
    bool failed = false;
    failing = at;
    allocations_of([&] {
        try {
            policy.set_instruction(text);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    });
    failing = -1;
    return failed;
}

// Whichever allocation fails, the instruction before stays set and cached, though the cache holds just one.
void test_failing_set_instruction(const std::string& path) {
    PolicyOptions options;
    options.threads = 1;
    options.instruction_cache_capacity = 1;
    Policy policy(path, options);
    policy.set_instruction(kTask);
    const SmallObservation seen;
    float expected[12];
    float actions[12];
    policy.infer(seen.view(), expected, 12, nullptr);
    long at = 0;
    for (; fails_at(policy, "lengthy instruction outside every small string", at); ++at) {
        EXPECT(policy.instruction() == kTask);
        policy.infer(seen.view(), actions, 12, nullptr);
        EXPECT(std::equal(actions, actions + 12, expected));
        const std::uint64_t computations = policy.instruction_computations();
        policy.set_instruction(kTask);
        EXPECT(policy.instruction_computations() == computations);
    }
    EXPECT(at > 3 && policy.instruction() != kTask);
    policy.infer(seen.view(), actions, 12, nullptr);
    EXPECT(!std::equal(actions, actions + 12, expected));
    for (at = 0; fails_at(policy, kTask, at); ++at) EXPECT(policy.instruction() != kTask);
}

void test_c_api(const std::string& path) {
    lightwam_options one_thread{};
    one_thread.threads = 1;
    lightwam_policy* policy = nullptr;
    EXPECT(lightwam_policy_open(path.c_str(), &one_thread, &policy) == LIGHTWAM_OK);
    EXPECT(lightwam_policy_set_instruction(policy, kTask) == LIGHTWAM_OK);
    const SmallObservation seen;
    const Observation view = seen.view(false);
    const lightwam_observation observation{nullptr, 0, view.latents, view.latent_count, view.state, view.state_width};
    float actions[12];
    double seconds = 0;
    const auto infer = [&] {
        EXPECT(lightwam_policy_infer(policy, &observation, actions, 12, &seconds) == LIGHTWAM_OK);
    };
    infer();
    EXPECT(allocations_of(infer) == 0);
    lightwam_policy_close(policy);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string folder = argv[1];
    std::string* volatile text = nullptr;  // volatile, or the compiler leaves the allocation out
    EXPECT(allocations_of([&] { text = new std::string(100, 'x'); }) > 0);
    delete text;
    for (const int threads : {1, 2}) {
        test_infer(folder + "/small_images.lwam", true, threads);
        test_infer(folder + "/small_latents.lwam", false, threads);
        test_infer(folder + "/small_int8.lwam", false, threads);
    }
    test_failing_set_instruction(folder + "/small_images.lwam");
    test_c_api(folder + "/small_latents.lwam");
    return finish();
}
