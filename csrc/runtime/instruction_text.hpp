// SPDX-License-Identifier: Apache-2.0
// The text of an instruction as text encoders were trained on it (docs/reference/engine-format.md, "Text of an
// instruction"): one space where there is white space, nothing where there is something invisible, form KC.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/nfkc.hpp"

namespace lightwam::runtime {

class InstructionCleaner {
  public:
    // Throws Error (instruction) for text that is not valid UTF-8.
    std::string operator()(std::string_view text);

  private:
    std::optional<Nfkc> nfkc_;  // unpacked for the first text that is not ASCII
};

}  // namespace lightwam::runtime
