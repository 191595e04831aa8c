// SPDX-License-Identifier: Apache-2.0
#include "engine/json_reader.hpp"

#include <algorithm>

namespace lightwam::engine {

JsonValue parse_document(std::string_view text, const std::string& what) {
    try {
        return parse_json(text);
    } catch (const FileError& error) {
        fail(what + " is not valid: " + error.what() + "; the file is corrupted or no engine file");
    }
}

ObjectReader::ObjectReader(const JsonValue& json, std::string where) : json_(json), where_(std::move(where)) {
    if (json.object() == nullptr) engine::fail(where_ + " is " + json.type_name() + "; expected an object");
}

void ObjectReader::expect_keys(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, value] : members())
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) fail("key '" + key + "' is unknown");
}

void ObjectReader::expected(const std::string& key, const JsonValue& found, const char* type) const {
    fail("'" + key + "' is " + found.type_name() + "; expected " + type);
}

const JsonValue& ObjectReader::member(const std::string& key) const {
    const JsonValue* value = find(key);
    if (value == nullptr) fail("key '" + key + "' is missing");
    return *value;
}

std::int64_t ObjectReader::integer(const std::string& key, std::int64_t minimum, std::int64_t maximum) const {
    const JsonValue& value = member(key);
    const JsonValue::Number* number = value.number();
    if (number == nullptr || !number->is_integer) expected(key, value, "an integer");
    if (number->integer < minimum || number->integer > maximum)
        fail("'" + key + "' is " + std::to_string(number->integer) + "; expected " + std::to_string(minimum) + " to " +
             std::to_string(maximum));
    return number->integer;
}

std::uint64_t ObjectReader::size(const std::string& key, std::uint64_t maximum) const {
    return static_cast<std::uint64_t>(integer(key, 0, static_cast<std::int64_t>(maximum)));
}

bool ObjectReader::boolean(const std::string& key) const {
    const JsonValue& value = member(key);
    if (value.boolean() == nullptr) expected(key, value, "a boolean");
    return *value.boolean();
}

const std::string& ObjectReader::string(const std::string& key) const {
    const JsonValue& value = member(key);
    if (value.string() == nullptr) expected(key, value, "a string");
    return *value.string();
}

const JsonValue::Array& ObjectReader::list(const std::string& key) const {
    const JsonValue& value = member(key);
    if (value.array() == nullptr) expected(key, value, "a list");
    return *value.array();
}

std::vector<std::int64_t> ObjectReader::integers(const std::string& key) const {
    const JsonValue* value = find(key);
    const JsonValue::Array* items = value == nullptr ? nullptr : value->array();
    if (items == nullptr) fail("key '" + key + "' is missing or not a list of integers");
    std::vector<std::int64_t> integers;
    integers.reserve(items->size());
    for (const JsonValue& item : *items) {
        const JsonValue::Number* number = item.number();
        if (number == nullptr || !number->is_integer)
            fail("'" + key + "' holds " + item.type_name() + "; expected integers");
        integers.push_back(number->integer);
    }
    return integers;
}

Shape ObjectReader::shape() const {
    Shape shape = integers("shape");
    if (element_count(shape) < 0) {
        shape.resize(std::min<std::size_t>(shape.size(), kMaxRank + 1));
        fail("shape " + shape_text(shape) + " is out of range; expected 1 to 6 dimensions of at least 1");
    }
    return shape;
}

ObjectReader ObjectReader::object(const std::string& key, std::string where) const {
    const JsonValue& value = member(key);
    if (value.object() == nullptr) expected(key, value, "an object");
    return ObjectReader(value, std::move(where));
}

}  // namespace lightwam::engine
