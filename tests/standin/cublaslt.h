/* SPDX-License-Identifier: Apache-2.0 */
/* A cuBLASLt for tests, on the stand-in driver: a product runs on the CPU when the stream comes to it. These are
 * the functions for the test; the library's own have no header. */
#ifndef LIGHTWAM_TESTS_STANDIN_CUBLASLT_H
#define LIGHTWAM_TESTS_STANDIN_CUBLASLT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STANDIN_API __attribute__((visibility("default")))

/* The nth call (1: the next) of a function, by its symbol, returns `status`; 0 takes it back. */
STANDIN_API void standin_cublaslt_fail(const char* function, int nth, int status);
/* How many calls of a function there were. */
STANDIN_API uint64_t standin_cublaslt_calls(const char* function);
/* Handles, descriptions, layouts and preferences that are alive. */
STANDIN_API uint64_t standin_cublaslt_alive(void);
/* What cublasLtGetVersion answers from now on. */
STANDIN_API void standin_cublaslt_set_version(uint64_t version);

#ifdef __cplusplus
}
#endif

#endif
