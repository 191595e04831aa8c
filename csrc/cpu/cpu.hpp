// SPDX-License-Identifier: Apache-2.0
//
// The whole CPU library: one `run` for every operation of docs/reference/engine-format.md, section 4.
#pragma once

#include "attention.hpp"    // IWYU pragma: export
#include "conv2d.hpp"       // IWYU pragma: export
#include "kernels.hpp"      // IWYU pragma: export
#include "linear.hpp"       // IWYU pragma: export
#include "preprocess.hpp"   // IWYU pragma: export
#include "rows.hpp"         // IWYU pragma: export
#include "thread_pool.hpp"  // IWYU pragma: export
#include "types.hpp"        // IWYU pragma: export
