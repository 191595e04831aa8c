// SPDX-License-Identifier: Apache-2.0
// An engine file: mapped, and verified as a whole before the constructor returns.
#pragma once

#include <string>

#include "engine/graph.hpp"
#include "engine/mapped_file.hpp"

namespace lightwam::engine {

class EngineFile {
  public:
    // Throws Error (engine) with one line that names the file, the op or key, the value and what was expected.
    explicit EngineFile(const std::string& path);

    // Its tensors point into the mapping: valid as long as this object lives.
    const Graph& graph() const { return graph_; }
    // The JSON document as it stands in the file.
    const std::string& document() const { return document_; }
    // Forgets the pages of a tensor that has been packed.
    void drop(const Tensor& tensor) const { file_.drop(tensor.data, tensor.bytes); }

  private:
    MappedFile file_;
    std::string document_;
    Graph graph_;
};

}  // namespace lightwam::engine
