// SPDX-License-Identifier: Apache-2.0
#define LIGHTWAM_LEVEL avx512
#define LIGHTWAM_TABLE kAvx512Table
#define LIGHTWAM_VECTOR_BYTES 64
#define LIGHTWAM_NATIVE_BF16 0
#define LIGHTWAM_NATIVE_I8 0
#include "level.inl"
