// SPDX-License-Identifier: Apache-2.0
#define LIGHTWAM_LEVEL avx512_bf16
#define LIGHTWAM_TABLE kAvx512Bf16Table
#define LIGHTWAM_VECTOR_BYTES 64
#define LIGHTWAM_NATIVE_BF16 1
#define LIGHTWAM_NATIVE_I8 1
#include "level.inl"
