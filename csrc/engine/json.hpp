// SPDX-License-Identifier: Apache-2.0
// A small strict JSON reader (RFC 8259): valid UTF-8, no duplicate keys, bounded depth and number of values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

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

}  // namespace lightwam::engine
