// SPDX-License-Identifier: Apache-2.0
// Names out of files and paths must not break a message or a log line in two.
#pragma once

#include <string>
#include <string_view>

namespace lightwam::engine {

// UTF-8 text with every control character and line separator written out: "\n", "\x1b", "\u2028".
std::string one_line(std::string_view text);

}  // namespace lightwam::engine
