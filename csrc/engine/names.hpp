// SPDX-License-Identifier: Apache-2.0
// Names of enumerators: tables whose rows hold both, so that neither depends on the other's order. Messages list the
// names in the order of the table.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lightwam::engine {

template <typename Enum>
struct Named {
    Enum value;
    const char* name;
};

// The row of a value, which every table must have.
template <typename Row, std::size_t count, typename Enum>
constexpr const Row& row_of(const Row (&table)[count], Enum value) noexcept {
    for (const Row& row : table)
        if (row.value == value) return row;
    return table[0];
}

// The row with a name; null when there is none.
template <typename Row, std::size_t count>
constexpr const Row* find_name(const Row (&table)[count], std::string_view name) noexcept {
    for (const Row& row : table)
        if (row.name == name) return &row;
    return nullptr;
}

// "a, b or c".
template <typename Row, std::size_t count>
std::string all_names(const Row (&table)[count]) {
    std::string text = table[0].name;
    for (std::size_t i = 1; i < count; ++i) text += (i + 1 < count ? ", " : " or ") + std::string(table[i].name);
    return text;
}

}  // namespace lightwam::engine
