// SPDX-License-Identifier: Apache-2.0
#define LIGHTWAM_LEVEL portable
#define LIGHTWAM_TABLE kPortableTable
#define LIGHTWAM_VECTOR_BYTES 16
#define LIGHTWAM_NATIVE_BF16 0
#define LIGHTWAM_NATIVE_I8 0
#include "level.inl"
