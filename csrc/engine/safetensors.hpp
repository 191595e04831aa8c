// SPDX-License-Identifier: Apache-2.0
// Reader of files, and of the safetensors container: 8 bytes of header length, a JSON header, then the tensors without
// a gap.
#pragma once

#include <string>
#include <vector>

#include "engine/graph.hpp"

namespace lightwam::engine {

// A file that is read by position. Not mapped: a file that shrinks meanwhile is an error, not a bus error.
class InputFile {
  public:
    // Fails (error_reporter.hpp) when the file cannot be opened, is no ordinary file, or is empty.
    explicit InputFile(const std::string& path);
    ~InputFile();
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    // When it was opened.
    std::uint64_t size() const noexcept { return size_; }

    // Fills `destination` from `offset` on. 0, the system's error number, or kEnded when the file ends before.
    // Several threads may read at once.
    int read(std::uint64_t offset, std::size_t bytes, std::byte* destination) const noexcept;
    static constexpr int kEnded = -1;

  private:
    int descriptor_;
    std::uint64_t size_ = 0;
};

// What went wrong, for a message.
std::string read_error_text(int error);

struct SafeTensors {
    std::vector<Tensor> tensors;  // in the order of the header
    std::string lightwam;         // the text of the metadata entry "lightwam"
};

// Reads and checks the header: lengths, dtypes, shapes, offsets, alignment, and that tensors neither overlap
// nor leave holes. Fails (error_reporter.hpp) otherwise.
SafeTensors read_safetensors(const InputFile& file);

}  // namespace lightwam::engine
