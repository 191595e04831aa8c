// SPDX-License-Identifier: Apache-2.0
#define LIGHTWAM_LEVEL avx512_vnni
#define LIGHTWAM_TABLE kAvx512VnniTable
#define LIGHTWAM_VECTOR_BYTES 64
#define LIGHTWAM_NATIVE_BF16 0
#define LIGHTWAM_NATIVE_I8 1
#include "level.inl"
