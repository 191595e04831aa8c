// SPDX-License-Identifier: Apache-2.0
// How the reader says no, and the typed look-ups it shares: every message names the file, the key and the value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {

// Throws Error (engine) "KIND 'PATH': WHY", cut to a reasonable length.
class Refusal {
  public:
    explicit Refusal(const std::string& path, const std::string& kind = "engine file") : path_(path), kind_(kind) {}
    [[noreturn]] void operator()(const std::string& why) const;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
    std::string kind_;
};

// Parses JSON, refusing on a JsonError. `what` names the text in the message.
JsonValue parse_document(std::string_view text, const std::string& what, const Refusal& refuse);

// Refuses what is no object, or has a key beside `keys`.
void expect_keys(const JsonValue& object, std::initializer_list<std::string_view> keys, const std::string& where,
                 const Refusal& refuse);

// The following refuse when the value is null (a missing key) or of another type. `where` names the object.
std::vector<std::int64_t> read_integers(const JsonValue* value, const std::string& where, const std::string& key,
                                        const Refusal& refuse);
Shape read_shape(const JsonValue* value, const std::string& where, const Refusal& refuse);
std::int64_t read_integer(const JsonValue& object, const std::string& where, const std::string& key,
                          std::int64_t minimum, std::int64_t maximum, const Refusal& refuse);
const std::string& read_string(const JsonValue& object, const std::string& where, const std::string& key,
                               const Refusal& refuse);
const JsonValue::Array& read_list(const JsonValue& object, const std::string& where, const std::string& key,
                                  const Refusal& refuse);
const JsonValue& read_object(const JsonValue& object, const std::string& where, const std::string& key,
                             const Refusal& refuse);
const JsonValue& read_member(const JsonValue& object, const std::string& where, const std::string& key,
                             const Refusal& refuse);

}  // namespace lightwam::engine
