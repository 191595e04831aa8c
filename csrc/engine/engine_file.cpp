// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_file.hpp"

#include "engine/graph_reader.hpp"
#include "engine/json.hpp"
#include "engine/refusal.hpp"
#include "engine/safetensors.hpp"

namespace lightwam::engine {

EngineFile::EngineFile(const std::string& path) : file_(path) {
    const Refusal refuse(path);
    SafeTensors contents = read_safetensors(file_.bytes(), path);
    document_ = std::move(contents.lightwam);
    graph_.tensors = std::move(contents.tensors);
    read_graph(parse_document(document_, "metadata 'lightwam'", refuse), graph_, refuse);
    for (const Tensor& tensor : graph_.tensors) {
        if (has_non_finite(tensor)) refuse("tensor '" + tensor.name + "' holds NaN or infinity");
        drop(tensor);
    }
}

}  // namespace lightwam::engine
