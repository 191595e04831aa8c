// SPDX-License-Identifier: Apache-2.0
// How readers and checks say what is wrong with a file. They know nothing of the file's name: they `fail`, and whoever
// opened the file lets an ErrorReporter run them, which names it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace lightwam::engine {

// What is wrong with a file: one line without its name. Stays inside of this library and of those that use it.
class FileError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws FileError.
[[noreturn]] void fail(const std::string& why);

// UTF-8 text with every control character and line separator written out: "\n", "\x1b", "\u2028". Names out of files
// and paths must not break a message or a log line in two.
std::string one_line(std::string_view text);

class ErrorReporter {
  public:
    explicit ErrorReporter(std::string path, std::string kind = "engine file")
        : path_(std::move(path)), kind_(std::move(kind)) {}

    // Runs `work`; its FileError becomes Error (engine) "KIND 'PATH': WHY", cut to a reasonable length.
    template <typename Work>
    auto operator()(Work&& work) const {
        try {
            return work();
        } catch (const FileError& error) {
            report(error.what());
        }
    }
    const std::string& path() const { return path_; }

  private:
    [[noreturn]] void report(const std::string& why) const;

    std::string path_;
    std::string kind_;
};

}  // namespace lightwam::engine
