// SPDX-License-Identifier: Apache-2.0
// A small strict JSON reader (RFC 8259): valid UTF-8, no duplicate keys, bounded depth and number of values. And typed
// look-ups in a document: every message names the place, the key and the value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/error_reporter.hpp"
#include "engine/graph.hpp"

namespace lightwam::engine {

class JsonValue {
  public:
    using Array = std::vector<JsonValue>;
    using Object = std::vector<std::pair<std::string, JsonValue>>;  // in the order of the text
    struct Number {
        double value;
        std::int64_t integer;
        bool is_integer;  // written without fraction or exponent and within 64 bits
    };

    JsonValue() = default;
    template <typename T>
    explicit JsonValue(T value) : data_(std::move(value)) {}

    bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
    const bool* boolean() const { return std::get_if<bool>(&data_); }
    const Number* number() const { return std::get_if<Number>(&data_); }
    const std::string* string() const { return std::get_if<std::string>(&data_); }
    const Array* array() const { return std::get_if<Array>(&data_); }
    const Object* object() const { return std::get_if<Object>(&data_); }
    // The member `key` of an object; null when there is none or this is no object.
    const JsonValue* find(std::string_view key) const;
    // "null", "a boolean", "a number", "a string", "a list" or "an object".
    const char* type_name() const;

  private:
    std::variant<std::monostate, bool, Number, std::string, Array, Object> data_;
};

// Parses the whole text; fails (error_reporter.hpp) with the place.
JsonValue parse_json(std::string_view text);

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
