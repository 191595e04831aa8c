// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "engine/error_reporter.hpp"
#include "engine/json.hpp"
#include "expect.hpp"

using lightwam::engine::FileError;
using lightwam::engine::JsonValue;
using lightwam::engine::parse_json;
using lightwam::test::throws_with;

namespace {

bool fails(const std::string& text, const std::string& why) {
    return throws_with<FileError>(why, [&] { parse_json(text); });
}

void test_values() {
    const JsonValue value = parse_json(R"( {"a": [1, -2.5e1, true, false, null, "x"], "b": {}} )");
    const JsonValue::Array& items = *value.find("a")->array();
    EXPECT(items.size() == 6);
    EXPECT(items[0].number()->is_integer && items[0].number()->integer == 1);
    EXPECT(!items[1].number()->is_integer && items[1].number()->value == -25.0);
    EXPECT(*items[2].boolean() && !*items[3].boolean() && items[4].is_null() && *items[5].string() == "x");
    EXPECT(value.find("b")->object()->empty());
    EXPECT(value.find("c") == nullptr && items[0].find("a") == nullptr);
    EXPECT(parse_json("9223372036854775807").number()->is_integer);
    EXPECT(!parse_json("9223372036854775808").number()->is_integer);
    EXPECT(parse_json("-0").number()->integer == 0);
}

void test_strings() {
    EXPECT(*parse_json(R"("\"\\\/\b\f\n\r\t")").string() == "\"\\/\b\f\n\r\t");
    EXPECT(*parse_json(R"("\u0041\u00e9\u20ac\ud83d\ude00")").string() == "A\u00e9\u20ac\U0001F600");
    EXPECT(*parse_json("\"\u00e9\U0001F600\"").string() == "\u00e9\U0001F600");
    EXPECT(parse_json(R"("a\u0000b")").string()->size() == 3);
}

void test_errors() {
    for (const char* text : {"", " ", "{", "[", "\"", "{\"a\"", "{\"a\":", "{\"a\":1", "[1", "[1,", "\"\\", "\"\\u12"})
        EXPECT(throws_with<FileError>("JSON at byte", [&] { parse_json(text); }));
    EXPECT(fails("[1,]", "digit"));
    EXPECT(fails("{\"a\":1,}", "key"));
    EXPECT(fails("{a:1}", "key"));
    EXPECT(fails("[1 2]", "comma"));
    EXPECT(fails("01", "after the end"));
    EXPECT(fails("1.", "digit"));
    EXPECT(fails("+1", "digit"));
    EXPECT(fails(".5", "digit"));
    EXPECT(fails("1e", "digit"));
    EXPECT(fails("1e400", "out of range"));
    EXPECT(fails("NaN", "digit"));
    EXPECT(fails("nul", "word"));
    EXPECT(fails("\"\\x\"", "escape"));
    EXPECT(fails("\"\\u12g4\"", "hexadecimal"));
    EXPECT(fails("\"\\udc00\"", "surrogate"));
    EXPECT(fails("\"\\ud800\\u0041\"", "surrogate"));
    EXPECT(fails(std::string("\"a\0b\"", 5), "control"));
    EXPECT(fails("\"\xC0\x80\"", "UTF-8"));
    EXPECT(fails("\"\xF4\x90\x80\x80\"", "UTF-8"));
    EXPECT(fails("\"\xE2\x82\"", "UTF-8"));
    EXPECT(fails("{\"a\":1,\"b\":2,\"a\":3}", "twice"));
}

void test_limits() {
    EXPECT(parse_json(std::string(64, '[') + std::string(64, ']')).array() != nullptr);
    EXPECT(fails(std::string(65, '[') + std::string(65, ']'), "deeper than 64"));
    std::string many = "[0";
    for (int i = 2; i < 1 << 20; ++i) many += ",0";  // with the list itself as many values as are allowed
    EXPECT(parse_json(many + "]").array() != nullptr);
    EXPECT(fails(many + ",0]", "more than 1048576 values"));
}

}  // namespace

int main() {
    test_values();
    test_strings();
    test_errors();
    test_limits();
    return lightwam::test::finish();
}
