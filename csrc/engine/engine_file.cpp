// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_file.hpp"

#include <cstdio>

#include "engine/checksum.hpp"
#include "engine/graph_reader.hpp"
#include "engine/json.hpp"
#include "engine/refusal.hpp"
#include "engine/safetensors.hpp"

namespace lightwam::engine {
namespace {

// The document's "checksums": tensor name -> eight hexadecimal digits. A file without them is taken as it is.
void check_numbers(const Tensor& tensor, const JsonValue* checksums, const Refusal& refuse) {
    if (has_non_finite(tensor)) refuse("tensor '" + tensor.name + "' holds NaN or infinity");
    if (checksums == nullptr) return;
    const JsonValue* entry = checksums->find(tensor.name);
    if (entry == nullptr || entry->string() == nullptr)
        refuse("'checksums' has no text for tensor '" + tensor.name + "'; export the policy again");
    char found[9];
    std::snprintf(found, sizeof(found), "%08x", static_cast<unsigned>(crc32(tensor.data, tensor.bytes)));
    if (*entry->string() != found)
        refuse("tensor '" + tensor.name + "' is damaged: its checksum is " + found + "; expected " + *entry->string() +
               "; fetch the file again");
}

}  // namespace

EngineFile::EngineFile(const std::string& path) : file_(path) {
    const Refusal refuse(path);
    SafeTensors contents = read_safetensors(file_.bytes(), path);
    document_ = std::move(contents.lightwam);
    graph_.tensors = std::move(contents.tensors);
    const JsonValue document = parse_document(document_, "metadata 'lightwam'", refuse);
    read_graph(document, graph_, refuse);
    const JsonValue* checksums = document.find("checksums");
    for (const Tensor& tensor : graph_.tensors) {
        check_numbers(tensor, checksums, refuse);
        drop(tensor);
    }
}

}  // namespace lightwam::engine
