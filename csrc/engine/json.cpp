// SPDX-License-Identifier: Apache-2.0
#include "engine/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/utf8.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxValues = std::size_t{1} << 20;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text) {}

    JsonValue parse_document() {
        JsonValue value = parse_value(1);
        skip_space();
        if (at_ < text_.size()) fail("text after the end of the document");
        return value;
    }

  private:
    [[noreturn]] void fail(const std::string& why) const {
        engine::fail("JSON at byte " + std::to_string(at_) + ": " + why);
    }

    void skip_space() { at_ = std::min(text_.find_first_not_of(" \n\r\t", at_), text_.size()); }

    bool consume(char c) {
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }

    void expect_word(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) fail("unknown word");
        at_ += word.size();
    }

    JsonValue parse_value(std::size_t depth) {
        if (depth > kMaxDepth) fail("deeper than " + std::to_string(kMaxDepth) + " levels");
        if (++count_ > kMaxValues) fail("more than " + std::to_string(kMaxValues) + " values");
        skip_space();
        if (at_ >= text_.size()) fail("the text ends where a value should be");
        switch (text_[at_]) {
            case '{':
                return parse_object(depth);
            case '[':
                return parse_array(depth);
            case '"':
                return JsonValue(parse_string());
            case 't':
                expect_word("true");
                return JsonValue(true);
            case 'f':
                expect_word("false");
                return JsonValue(false);
            case 'n':
                expect_word("null");
                return JsonValue();
            default:
                return parse_number();
        }
    }

    // What stands between brackets, each read by `item`.
    template <typename Item>
    void parse_items(char close, const char* missing, Item&& item) {
        ++at_;
        skip_space();
        if (consume(close)) return;
        do {
            item();
            skip_space();
        } while (consume(','));
        if (!consume(close)) fail(missing);
    }

    JsonValue parse_object(std::size_t depth) {
        JsonValue::Object members;
        parse_items('}', "a comma or a closing brace should stand here", [&] {
            skip_space();
            if (at_ >= text_.size() || text_[at_] != '"') fail("a key should stand here");
            std::string key = parse_string();
            skip_space();
            if (!consume(':')) fail("a colon should stand here");
            JsonValue value = parse_value(depth + 1);
            members.emplace_back(std::move(key), std::move(value));
        });
        expect_unique(members);
        return JsonValue(std::move(members));
    }

    void expect_unique(const JsonValue::Object& members) const {
        std::vector<std::string_view> keys;
        keys.reserve(members.size());
        for (const auto& member : members) keys.push_back(member.first);
        std::sort(keys.begin(), keys.end());
        if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) fail("an object names a key twice");
    }

    JsonValue parse_array(std::size_t depth) {
        JsonValue::Array items;
        parse_items(']', "a comma or a closing bracket should stand here",
                    [&] { items.push_back(parse_value(depth + 1)); });
        return JsonValue(std::move(items));
    }

    std::string parse_string() {
        ++at_;
        std::string out;
        while (true) {
            if (at_ >= text_.size()) fail("a string does not end");
            const char c = text_[at_];
            if (c == '"') {
                ++at_;
                return out;
            }
            if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
            if (c == '\\') {
                ++at_;
                parse_escape(out);
                continue;
            }
            const std::size_t length = utf8_length(text_.substr(at_));
            if (length == 0) fail("not valid UTF-8");
            out.append(text_, at_, length);
            at_ += length;
        }
    }

    void parse_escape(std::string& out) {
        if (at_ >= text_.size()) fail("a string does not end");
        static constexpr std::string_view kNames = "\"\\/bfnrt";
        static constexpr std::string_view kBytes = "\"\\/\b\f\n\r\t";
        const char c = text_[at_++];
        if (c != 'u') {
            const std::size_t index = kNames.find(c);
            if (index == std::string_view::npos) fail("an unknown escape");
            out.push_back(kBytes[index]);
            return;
        }
        std::uint32_t code = parse_hex4();
        if (code >= 0xDC00 && code <= 0xDFFF) fail("half a surrogate pair");
        if (code >= 0xD800 && code <= 0xDBFF) {
            if (!consume('\\') || !consume('u')) fail("half a surrogate pair");
            const std::uint32_t low = parse_hex4();
            if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        append_utf8(out, code);
    }

    std::uint32_t parse_hex4() {
        if (text_.size() - at_ < 4) fail("a string does not end");
        std::uint32_t code = 0;
        const char* end = text_.data() + at_ + 4;
        const auto result = std::from_chars(text_.data() + at_, end, code, 16);
        if (result.ec != std::errc() || result.ptr != end) fail("four hexadecimal digits should stand here");
        at_ += 4;
        return code;
    }

    void expect_digits() {
        if (at_ >= text_.size() || !is_digit(text_[at_])) fail("a digit should stand here");
        while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    }

    JsonValue parse_number() {
        const std::size_t start = at_;
        bool plain = true;
        consume('-');
        if (!consume('0')) expect_digits();
        if (consume('.')) {
            plain = false;
            expect_digits();
        }
        if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
            plain = false;
            ++at_;
            if (!consume('+')) consume('-');
            expect_digits();
        }
        const char* first = text_.data() + start;
        const char* last = text_.data() + at_;
        JsonValue::Number number{0.0, 0, false};
        const auto result = std::from_chars(first, last, number.value);
        if (result.ec != std::errc() || result.ptr != last || !std::isfinite(number.value))
            fail("a number out of range");
        if (plain) {
            const auto integer = std::from_chars(first, last, number.integer);
            number.is_integer = integer.ec == std::errc() && integer.ptr == last;
        }
        return JsonValue(number);
    }

    std::string_view text_;
    std::size_t at_ = 0;
    std::size_t count_ = 0;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
    if (object() == nullptr) return nullptr;
    for (const auto& [name, value] : *object())
        if (name == key) return &value;
    return nullptr;
}

const char* JsonValue::type_name() const {
    if (is_null()) return "null";
    if (boolean() != nullptr) return "a boolean";
    if (number() != nullptr) return "a number";
    if (string() != nullptr) return "a string";
    return array() != nullptr ? "a list" : "an object";
}

JsonValue parse_json(std::string_view text) { return Parser(text).parse_document(); }

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
