// SPDX-License-Identifier: Apache-2.0
// Unicode's normalisation form KC: full-width letters become plain ones, letters and their accents one character.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lightwam::runtime {

class Nfkc {
  public:
    Nfkc();  // unpacks its tables (about 200 kB)

    // `text` without surrogates. The tables' version of Unicode is named in nfkc_table.inl.
    std::u32string normalize(std::u32string_view text) const;

  private:
    struct Decomposition {
        char32_t code;
        std::size_t first;  // in parts_
        std::size_t length;
    };
    struct ClassRun {
        char32_t first;
        char32_t last;
        unsigned combining_class;
    };
    struct Composition {
        char32_t first;
        char32_t second;
        char32_t composed;
    };

    void decompose(char32_t code, std::u32string& out) const;
    unsigned combining_class(char32_t code) const;
    void order_marks(std::u32string& text) const;
    char32_t composed(char32_t first, char32_t second) const;
    void compose(std::u32string& text) const;

    std::u32string parts_;
    std::vector<Decomposition> decompositions_;  // by code
    std::vector<ClassRun> classes_;              // by code
    std::vector<Composition> compositions_;      // by first, second
};

}  // namespace lightwam::runtime
