// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lightwam::runtime {

// Processors that this process may run on (its affinity mask); at least 1.
int available_processors() noexcept;

}  // namespace lightwam::runtime
