// SPDX-License-Identifier: Apache-2.0
#include "engine/refusal.hpp"

#include <algorithm>

namespace lightwam::engine {
namespace {

constexpr std::size_t kMaxMessage = 600;

}  // namespace

void Refusal::operator()(const std::string& why) const {
    std::string message = kind_ + " '" + path_ + "': " + why;
    if (message.size() > kMaxMessage) {
        std::size_t end = kMaxMessage;
        while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
        message = message.substr(0, end) + "...";
    }
    throw Error(ErrorKind::engine, message);
}

JsonValue parse_document(std::string_view text, const std::string& what, const Refusal& refuse) {
    try {
        return parse_json(text);
    } catch (const JsonError& error) {
        refuse(what + " is not valid: " + error.what() + "; the file is corrupted or no engine file");
    }
}

void expect_keys(const JsonValue& object, std::initializer_list<std::string_view> keys, const std::string& where,
                 const Refusal& refuse) {
    if (object.object() == nullptr) refuse(where + " is " + object.type_name() + "; expected an object");
    for (const auto& [key, value] : *object.object())
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) refuse(where + ": key '" + key + "' is unknown");
}

const JsonValue& read_member(const JsonValue& object, const std::string& where, const std::string& key,
                             const Refusal& refuse) {
    const JsonValue* value = object.find(key);
    if (value == nullptr) refuse(where + ": key '" + key + "' is missing");
    return *value;
}

std::vector<std::int64_t> read_integers(const JsonValue* value, const std::string& where, const std::string& key,
                                        const Refusal& refuse) {
    const JsonValue::Array* items = value == nullptr ? nullptr : value->array();
    if (items == nullptr) refuse(where + ": key '" + key + "' is missing or not a list of integers");
    std::vector<std::int64_t> integers;
    integers.reserve(items->size());
    for (const JsonValue& item : *items) {
        const JsonValue::Number* number = item.number();
        if (number == nullptr || !number->is_integer)
            refuse(where + ": '" + key + "' holds " + item.type_name() + "; expected integers");
        integers.push_back(number->integer);
    }
    return integers;
}

Shape read_shape(const JsonValue* value, const std::string& where, const Refusal& refuse) {
    Shape shape = read_integers(value, where, "shape", refuse);
    if (element_count(shape) < 0) {
        shape.resize(std::min<std::size_t>(shape.size(), kMaxRank + 1));
        refuse(where + ": shape " + shape_text(shape) + " is out of range; expected 1 to 6 dimensions of at least 1");
    }
    return shape;
}

std::int64_t read_integer(const JsonValue& object, const std::string& where, const std::string& key,
                          std::int64_t minimum, std::int64_t maximum, const Refusal& refuse) {
    const JsonValue& value = read_member(object, where, key, refuse);
    const JsonValue::Number* number = value.number();
    if (number == nullptr || !number->is_integer)
        refuse(where + ": '" + key + "' is " + value.type_name() + "; expected an integer");
    if (number->integer < minimum || number->integer > maximum)
        refuse(where + ": '" + key + "' is " + std::to_string(number->integer) + "; expected " +
               std::to_string(minimum) + " to " + std::to_string(maximum));
    return number->integer;
}

const std::string& read_string(const JsonValue& object, const std::string& where, const std::string& key,
                               const Refusal& refuse) {
    const JsonValue& value = read_member(object, where, key, refuse);
    if (value.string() == nullptr) refuse(where + ": '" + key + "' is " + value.type_name() + "; expected a string");
    return *value.string();
}

const JsonValue::Array& read_list(const JsonValue& object, const std::string& where, const std::string& key,
                                  const Refusal& refuse) {
    const JsonValue& value = read_member(object, where, key, refuse);
    if (value.array() == nullptr) refuse(where + ": '" + key + "' is " + value.type_name() + "; expected a list");
    return *value.array();
}

const JsonValue& read_object(const JsonValue& object, const std::string& where, const std::string& key,
                             const Refusal& refuse) {
    const JsonValue& value = read_member(object, where, key, refuse);
    if (value.object() == nullptr) refuse(where + ": '" + key + "' is " + value.type_name() + "; expected an object");
    return value;
}

}  // namespace lightwam::engine
