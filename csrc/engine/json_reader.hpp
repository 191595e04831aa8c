// SPDX-License-Identifier: Apache-2.0
// Typed look-ups in a JSON document: every message names the place, the key and the value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error_reporter.hpp"
#include "engine/graph.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {

// Parses JSON. `what` names the text in the message.
JsonValue parse_document(std::string_view text, const std::string& what);

// An object of a document, and where it stands: "program 'act': op 3". All functions fail (error_reporter.hpp) when a
// key is missing or its value has another type.
class ObjectReader {
  public:
    ObjectReader(const JsonValue& json, std::string where);

    const std::string& where() const { return where_; }
    void set_where(std::string where) { where_ = std::move(where); }
    [[noreturn]] void fail(const std::string& why) const { engine::fail(where_ + ": " + why); }

    const JsonValue::Object& members() const { return *json_.object(); }
    // Null when there is none.
    const JsonValue* find(std::string_view key) const { return json_.find(key); }
    // Fails on a key beside `keys`.
    void expect_keys(std::initializer_list<std::string_view> keys) const;

    const JsonValue& member(const std::string& key) const;
    std::int64_t integer(const std::string& key, std::int64_t minimum, std::int64_t maximum) const;
    // An integer from 0 on.
    std::uint64_t size(const std::string& key, std::uint64_t maximum) const;
    bool boolean(const std::string& key) const;
    const std::string& string(const std::string& key) const;
    const JsonValue::Array& list(const std::string& key) const;
    std::vector<std::int64_t> integers(const std::string& key) const;
    // The integers "shape": 1 to 6 dimensions of at least 1.
    Shape shape() const;
    ObjectReader object(const std::string& key, std::string where) const;

    // The value whose name the text at `key` is.
    template <typename Row, std::size_t count>
    auto one_of(const std::string& key, const Row (&table)[count]) const {
        const std::string& name = string(key);
        if (const Row* row = find_name(table, name); row != nullptr) return row->value;
        fail("'" + key + "' is '" + name + "'; expected " + all_names(table));
    }
    // The same with another message.
    template <typename Row, std::size_t count>
    auto known(const std::string& key, const Row (&table)[count]) const {
        const std::string& name = string(key);
        if (const Row* row = find_name(table, name); row != nullptr) return row->value;
        fail(key + " '" + name + "' is unknown; expected " + all_names(table));
    }

  private:
    [[noreturn]] void expected(const std::string& key, const JsonValue& found, const char* type) const;

    const JsonValue& json_;
    std::string where_;
};

}  // namespace lightwam::engine
