// SPDX-License-Identifier: Apache-2.0
// What a file is that was given as an engine file and is none: the common mistakes, told by their first bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lightwam::engine {

// As many bytes of a file as the table looks at.
inline constexpr std::size_t kKindBytes = 512;

// What follows "the file": "is a Git LFS pointer, ...: run ...". Empty for what looks like an engine file, or like
// nothing that is known. `head`: the file's first bytes, kKindBytes at most.
std::string foreign_kind(std::string_view head);

}  // namespace lightwam::engine
