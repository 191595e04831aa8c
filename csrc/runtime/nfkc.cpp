// SPDX-License-Identifier: Apache-2.0
#include "runtime/nfkc.hpp"

#include <algorithm>
#include <cstdint>
#include <tuple>

namespace lightwam::runtime {
namespace {

constexpr char kTable[] =
#include "runtime/nfkc_table.inl"
    ;

// Hangul syllables: first + (lead * 21 + vowel) * 28 + tail.
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28;

// The numbers of nfkc_table.inl, one after the other (nfkc_table.py).
class TableReader {
  public:
    std::uint32_t unsigned_number() {
        std::uint32_t value = 0;
        for (unsigned shift = 0;; shift += 5) {
            const std::uint32_t digit = digit_of(*next_++);
            value |= (digit & 31U) << shift;
            if (digit < 32) return value;
        }
    }
    std::int32_t signed_number() {
        const auto folded = static_cast<std::int32_t>(unsigned_number());
        return folded % 2 == 0 ? folded / 2 : -(folded + 1) / 2;
    }

  private:
    static std::uint32_t digit_of(char c) {
        if (c >= 'a') return static_cast<std::uint32_t>(c - 'a') + 26;
        if (c >= 'A') return static_cast<std::uint32_t>(c - 'A');
        return c >= '0' ? static_cast<std::uint32_t>(c - '0') + 52 : c == '+' ? 62U : 63U;
    }

    const char* next_ = kTable;
};

}  // namespace

Nfkc::Nfkc() {
    TableReader table;
    decompositions_.resize(table.unsigned_number());
    char32_t code = 0;
    std::int32_t expected = 0;
    for (Decomposition& entry : decompositions_) {
        code += table.unsigned_number();
        const std::uint32_t length = table.unsigned_number();
        entry = {code, parts_.size(), length / 2};
        std::int32_t part = expected;
        for (std::size_t i = 0; i < entry.length; ++i) {
            part += table.signed_number();
            parts_ += static_cast<char32_t>(part);
        }
        expected = static_cast<std::int32_t>(parts_[entry.first]) + 1;
        if (length % 2 == 1) compositions_.push_back({parts_[entry.first], parts_[entry.first + 1], code});
    }
    classes_.resize(table.unsigned_number());
    code = 0;
    for (ClassRun& run : classes_) {
        code += table.unsigned_number();
        const std::uint32_t length = table.unsigned_number();
        run = {code, code + length - 1, table.unsigned_number()};
    }
    std::ranges::sort(compositions_, {}, [](const Composition& c) { return std::tuple(c.first, c.second); });
}

void Nfkc::decompose(char32_t code, std::u32string& out) const {
    if (code >= kSyllable && code < kSyllable + kLeads * kVowels * kTails) {
        const char32_t at = code - kSyllable;
        out += kLead + at / (kVowels * kTails);
        out += kVowel + at / kTails % kVowels;
        if (at % kTails != 0) out += kTail + at % kTails;
        return;
    }
    const auto found = std::ranges::lower_bound(decompositions_, code, {}, &Decomposition::code);
    if (found == decompositions_.end() || found->code != code) {
        out += code;
        return;
    }
    for (std::size_t i = 0; i < found->length; ++i) decompose(parts_[found->first + i], out);
}

unsigned Nfkc::combining_class(char32_t code) const {
    const auto run = std::ranges::lower_bound(classes_, code, {}, &ClassRun::last);
    return run != classes_.end() && run->first <= code ? run->combining_class : 0;
}

// Each run of marks by class; marks of one class stay in their order.
void Nfkc::order_marks(std::u32string& text) const {
    const auto is_mark = [&](char32_t code) { return combining_class(code) != 0; };
    std::vector<std::tuple<unsigned, std::size_t, char32_t>> marks;  // class, place in the run
    for (auto begin = text.begin(); begin != text.end();) {
        begin = std::find_if(begin, text.end(), is_mark);
        const auto end = std::find_if_not(begin, text.end(), is_mark);
        marks.clear();
        for (auto mark = begin; mark != end; ++mark) marks.emplace_back(combining_class(*mark), marks.size(), *mark);
        std::ranges::sort(marks);
        for (const auto& mark : marks) *begin++ = std::get<char32_t>(mark);
    }
}

// The character that two make; 0 where they make none.
char32_t Nfkc::composed(char32_t first, char32_t second) const {
    if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels)
        return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
    const bool open =
        first >= kSyllable && first < kSyllable + kLeads * kVowels * kTails && (first - kSyllable) % kTails == 0;
    if (open && second > kTail && second < kTail + kTails) return first + (second - kTail);
    const auto found = std::ranges::lower_bound(compositions_, std::tuple(first, second), {},
                                                [](const Composition& c) { return std::tuple(c.first, c.second); });
    const bool there = found != compositions_.end() && found->first == first && found->second == second;
    return there ? found->composed : 0;
}

void Nfkc::compose(std::u32string& text) const {
    std::size_t kept = 0;
    std::size_t starter = text.size();  // where the last character of class 0 went
    unsigned last_class = 0;            // of what stands behind it
    for (const char32_t code : text) {
        const unsigned own_class = combining_class(code);
        const bool adjacent = starter + 1 == kept;
        const bool reaches = starter < kept && (adjacent || last_class < own_class);
        if (const char32_t made = reaches ? composed(text[starter], code) : 0; made != 0) {
            text[starter] = made;
            continue;
        }
        if (own_class == 0) starter = kept;
        last_class = own_class;
        text[kept++] = code;
    }
    text.resize(kept);
}

std::u32string Nfkc::normalize(std::u32string_view text) const {
    std::u32string result;
    result.reserve(text.size());
    for (const char32_t code : text) decompose(code, result);
    order_marks(result);
    compose(result);
    return result;
}

}  // namespace lightwam::runtime
