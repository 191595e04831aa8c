// SPDX-License-Identifier: Apache-2.0
#include "engine/file_kind.hpp"

#include <algorithm>
#include <cctype>

namespace lightwam::engine {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kFetch = "fetch the engine file again";
constexpr std::string_view kUnpack = "unpack it and give the engine file inside";
constexpr std::string_view kExport = "'lightwam convert' and 'lightwam export' make an engine file of a checkpoint";
constexpr std::string_view kOther = "give an engine file (*.lwam), as 'lightwam export' writes it";

struct Magic {
    std::size_t at;
    std::string_view bytes;
    std::string_view what;
    std::string_view remedy;
};

constexpr Magic kMagic[] = {
    {0, "version https://git-lfs.github.com/spec/"sv, "a Git LFS pointer, not the engine file itself",
     "run 'git lfs pull' in its repository, or download the file"},
    {0, "/annex/objects/"sv, "a git-annex pointer, not the engine file itself",
     "run 'git annex get' in its repository"},
    {0, "outs:\n"sv, "a DVC pointer, not the engine file itself", "run 'dvc pull' in its repository"},
    {0, "PK\x03\x04"sv, "a zip archive or a torch.save checkpoint", kExport},
    {0, "PK\x05\x06"sv, "an empty zip archive", kFetch},
    {0, "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19"sv, "a torch.save checkpoint", kExport},
    {0, "\x80\x02"sv, "a Python pickle", kExport},
    {0, "\x80\x03"sv, "a Python pickle", kExport},
    {0, "\x80\x04"sv, "a Python pickle", kExport},
    {0, "\x80\x05"sv, "a Python pickle", kExport},
    {0, "ftrt"sv, "a TensorRT engine", kOther},
    {0, "ptrt"sv, "a TensorRT engine", kOther},
    {0, "GGUF"sv, "a GGUF file", kOther},
    {0, "\x89HDF\r\n\x1a\n"sv, "an HDF5 file", kOther},
    {0, "\x93NUMPY"sv, "a NumPy array", kOther},
    {0, "PAR1"sv, "a Parquet table", kOther},
    {0, "\x1f\x8b"sv, "a gzip archive", kUnpack},
    {0, "BZh"sv, "a bzip2 archive", kUnpack},
    {0, "\xfd\x37zXZ\x00"sv, "an xz archive", kUnpack},
    {0, "\x28\xb5\x2f\xfd"sv, "a Zstandard archive", kUnpack},
    {0, "7z\xbc\xaf\x27\x1c"sv, "a 7-Zip archive", kUnpack},
    {0, "Rar!\x1a\x07"sv, "a RAR archive", kUnpack},
    {257, "ustar"sv, "a tar archive", kUnpack},
    {4, "TFL3"sv, "a TensorFlow Lite model", kOther},
    {4, "ftyp"sv, "an MP4 video", kOther},
    {0, "\x7f\x45LF"sv, "a program or library", kOther},
    {0, "%PDF"sv, "a PDF document", kOther},
    {0, "SQLite format 3\x00"sv, "an SQLite database", kOther},
    {0, "\x00\x05\x16\x07\x00"sv, "what macOS keeps beside a file (its name begins with '._')",
     "give the file without '._'"},
    {0, "\xff\xfe"sv, "text in UTF-16", kOther},
    {0, "\xfe\xff"sv, "text in UTF-16", kOther},
};

bool begins_as_html(std::string_view text) {
    for (const std::string_view tag : {"<!doctype html"sv, "<html"sv, "<head"sv, "<body"sv, "<!--"sv})
        if (text.size() >= tag.size() && std::ranges::equal(text.substr(0, tag.size()), tag, [](char a, char b) {
                return std::tolower(static_cast<unsigned char>(a)) == b;
            }))
            return true;
    return false;
}

// An ONNX model: the IR's version, then the producer's name, the domain, the graph or the operator sets.
bool begins_as_onnx(std::string_view head) {
    return head.size() > 3 && head[0] == '\x08' && head[1] >= 1 && head[1] <= 20 &&
           "\x12\x1a\x3a\x42"sv.find(head[2]) != std::string_view::npos && (head.size() < 9 || head[8] != '{');
}

// No control characters, and mostly ASCII.
bool is_text(std::string_view text) {
    std::size_t ascii = 0;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte == 0x7F || (byte < 0x20 && (byte < 0x09 || byte > 0x0D))) return false;
        ascii += byte < 0x80 ? 1 : 0;
    }
    return !text.empty() && 2 * ascii >= text.size();
}

// "its first bytes are c8 03 07 ff"
std::string begin(std::string_view head) {
    std::string text = "its first bytes are";
    for (const char c : head.substr(0, 8)) {
        constexpr std::string_view kDigits = "0123456789abcdef";
        const auto byte = static_cast<unsigned char>(c);
        text.append({' ', kDigits[byte / 16], kDigits[byte % 16]});
    }
    return text;
}

std::string told(std::string_view what, std::string_view remedy) {
    return std::string("is ").append(what).append(": ").append(remedy);
}

}  // namespace

std::string foreign_kind(std::string_view head) {
    for (const Magic& magic : kMagic)
        if (head.size() >= magic.at + magic.bytes.size() && head.substr(magic.at, magic.bytes.size()) == magic.bytes)
            // The length of a header may have the bytes of a short mark; its JSON follows.
            if (magic.bytes.size() > 4 || head.size() < 9 || head[8] != '{') return told(magic.what, magic.remedy);
    std::string_view text = head;
    if (text.starts_with("\xef\xbb\xbf"sv)) text.remove_prefix(3);
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"sv), text.size()));
    if (begins_as_html(text)) return told("an HTML page, not the engine file itself", kFetch);
    if (text.starts_with("<?xml"sv)) return told("an XML document", kOther);
    if (begins_as_onnx(head)) return told("an ONNX model", kOther);
    const bool json = text.starts_with('{') || text.starts_with('[');
    if (head.size() < 8) return {};  // a few bytes may be the rest of any file
    if (json && is_text(text)) return told("a JSON document", kOther);
    if (is_text(text)) return told("a text file", kOther);
    if (!head.empty() && std::ranges::all_of(head, [](char c) { return c == '\0'; }))
        return told("filled with zero bytes (a download that never finished)", kFetch);
    // Neither the length of a header (4 GiB and more), nor its JSON.
    if (head.size() > 8 && head[8] != '{' && head.substr(4, 4) != "\0\0\0\0"sv)
        return told("of no kind that is known (" + begin(head) + ")", kOther);
    return {};
}

}  // namespace lightwam::engine
