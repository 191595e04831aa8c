/* SPDX-License-Identifier: Apache-2.0 */
/* A driver library that stands in for libcuda.so.1 in tests: no GPU. Device memory is the CPU's; work that is put
 * onto a stream runs when somebody waits for it; a launch calls back the test, which computes the kernel. These are the
 * functions for the test; the driver's own have no header. */
#ifndef LIGHTWAM_TESTS_STANDIN_H
#define LIGHTWAM_TESTS_STANDIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STANDIN_API __attribute__((visibility("default")))

typedef struct standin_launch {
    const uint8_t* image; /* the cubin */
    size_t image_bytes;
    const char* entry;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared;
    const uint64_t* arguments; /* addresses, the two of scratch memory last */
    size_t argument_count;
} standin_launch;

/* Computes a launch; anything but 0 is a launch that failed on the device. Called without a lock held. */
typedef int (*standin_launcher)(void* user, const standin_launch* launch);

STANDIN_API void standin_set_launcher(standin_launcher launcher, void* user);
/* arch: 87 for compute capability 8.7. count GPUs, all alike. */
STANDIN_API void standin_set_device(int count, int arch, int integrated, uint64_t memory_bytes);
/* The nth call (1: the next) of a driver function, by its symbol, returns `result`; if such an error loses the device,
 * everything fails from then on until the context is given back. */
STANDIN_API void standin_fail(const char* function, int nth, int result);
/* Puts the clock that events read forward: a launch that is to seem slow calls it. By itself the clock moves a
 * microsecond with each reading. */
STANDIN_API void standin_advance_clock(double seconds);
/* Of work that may run in any order (pieces of a graph, several streams), what comes first: the oldest, the newest, or
 * (any other number) a random one, always the same for a number. */
enum { STANDIN_OLDEST = 0, STANDIN_NEWEST = 1 };
STANDIN_API void standin_set_order(unsigned order);
/* How many calls of a driver function there were. */
STANDIN_API uint64_t standin_calls(const char* function);
/* Objects that are alive: "device", "host", "modules", "streams", "graphs", "execs", "events", "contexts". */
STANDIN_API uint64_t standin_live(const char* kind);
/* Objects that were alive when the last user of a context gave it back. */
STANDIN_API uint64_t standin_leaked(void);
STANDIN_API uint64_t standin_peak_device_bytes(void);
/* Bytes from an address to the end of the live allocation that it is in; 0 when it is in none. */
STANDIN_API uint64_t standin_bytes_from(uint64_t address);
/* Everything so far that a real driver might let pass: writes beside an allocation, a launch on memory that is gone,
 * copies from memory that is not page-locked. One line each; empty when there is nothing. */
STANDIN_API const char* standin_misuse(void);

#ifdef __cplusplus
}
#endif

#endif
