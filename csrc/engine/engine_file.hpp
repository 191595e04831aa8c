// SPDX-License-Identifier: Apache-2.0
// An engine file: its header verified as a whole by the constructor, its numbers as they are read.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "engine/error_reporter.hpp"
#include "engine/graph.hpp"
#include "engine/launch_plan.hpp"
#include "engine/safetensors.hpp"

namespace lightwam::engine {

// One piece of a tensor: how reading it ended and what its bytes are like.
struct PieceReport {
    std::uint64_t bytes = 0;
    int read_error = 0;       // InputFile::read
    std::uint32_t crc32 = 0;  // of the piece
    bool finite = true;
    bool in_range = true;  // i8: no -128; scales of quantised weights: positive
};

class EngineFile {
  public:
    // Reads and verifies everything but the numbers. Throws Error (engine) with one line that names the file, the op or
    // key, the value and what was expected.
    // Calls `while_opening` now and then: what that throws ends the opening.
    explicit EngineFile(const std::string& path, std::function<void()> while_opening = nullptr);

    const Graph& graph() const { return graph_; }
    // How to run the graph on a GPU; null when the file has no machine code.
    const LaunchPlan* launch_plan() const { return launch_plan_ ? &*launch_plan_ : nullptr; }
    // For those who read all of its numbers, on the thread that opens the file: calls `while_opening`.
    void opening() const {
        if (while_opening_) while_opening_();
    }
    const ErrorReporter& reporter() const { return reporter_; }
    const std::string& path() const { return reporter_.path(); }
    // The JSON document as it stands in the file.
    const std::string& document() const { return document_; }

    // Reads bytes [begin, begin + bytes) of a tensor, whole elements, and says what they are like. Several threads may
    // read at once.
    PieceReport read(const Tensor& tensor, std::size_t begin, std::size_t bytes, std::byte* destination) const noexcept;
    // Throws Error (engine) on a tensor that could not be read, holds NaN, infinity or a number that its role excludes,
    // or does not fit its checksum. `pieces` are all of it, in order.
    void check_numbers(const Tensor& tensor, std::span<const PieceReport> pieces) const;

    // Reads all numbers only to check them. Throws Error (engine).
    void check_all_numbers() const;

  private:
    ErrorReporter reporter_;
    std::function<void()> while_opening_;
    InputFile file_;
    std::string document_;
    Graph graph_;
    std::optional<LaunchPlan> launch_plan_;
};

}  // namespace lightwam::engine
