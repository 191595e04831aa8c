// SPDX-License-Identifier: Apache-2.0
// ELF as in its specification; the sections .nv.info.<entry> (a list of attributes) as the GPU's assembler writes them.
#include "cuda/cubin.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace lightwam::cuda {
namespace {

constexpr std::size_t kHeaderBytes = 64;
constexpr std::size_t kSectionBytes = 64;
constexpr std::uint16_t kMachineCuda = 190;
constexpr std::size_t kMaxParameters = 512;
constexpr std::string_view kInfo = ".nv.info.";
constexpr std::string_view kText = ".text.";

// How an attribute holds its value.
enum Form : std::uint8_t { kNone = 1, kByte = 2, kHalf = 3, kPayload = 4 };
// The attributes read here.
enum Attribute : std::uint8_t { kRequiredThreads = 0x10, kParameter = 0x17, kParameterBytes = 0x19 };

struct Section {
    std::string_view name;
    std::span<const std::byte> bytes;
};

template <typename T>
T number_at(std::span<const std::byte> bytes, std::size_t offset) {
    if (offset > bytes.size() || sizeof(T) > bytes.size() - offset) throw CubinError("it is truncated");
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
}

std::span<const std::byte> part(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t size) {
    if (offset > bytes.size() || size > bytes.size() - offset) throw CubinError("a section runs past its end");
    return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
}

std::string_view name_at(std::span<const std::byte> names, std::uint32_t offset) {
    const std::span<const std::byte> rest =
        part(names, offset, names.size() - std::min<std::size_t>(offset, names.size()));
    const auto* const text = reinterpret_cast<const char*>(rest.data());
    return {text, ::strnlen(text, rest.size())};
}

std::vector<Section> read_sections(std::span<const std::byte> bytes) {
    const auto table = number_at<std::uint64_t>(bytes, 40);
    const auto count = number_at<std::uint16_t>(bytes, 60);
    const auto names_index = number_at<std::uint16_t>(bytes, 62);
    if (number_at<std::uint16_t>(bytes, 58) != kSectionBytes || names_index >= count)
        throw CubinError("its table of sections is damaged");
    const std::span<const std::byte> headers = part(bytes, table, count * kSectionBytes);
    const auto contents = [&](std::size_t index) {
        const std::span<const std::byte> header = headers.subspan(index * kSectionBytes, kSectionBytes);
        constexpr std::uint32_t kNoBits = 8;  // a section without bytes in the file
        if (number_at<std::uint32_t>(header, 4) == kNoBits) return std::span<const std::byte>();
        return part(bytes, number_at<std::uint64_t>(header, 24), number_at<std::uint64_t>(header, 32));
    };
    const std::span<const std::byte> names = contents(names_index);
    std::vector<Section> sections;
    for (std::size_t i = 1; i < count; ++i)
        sections.push_back({name_at(names, number_at<std::uint32_t>(headers, i * kSectionBytes)), contents(i)});
    return sections;
}

// Version 7 of the binary interface has the architecture in the lowest byte of the flags, version 8 in the next.
int read_arch(std::span<const std::byte> bytes) {
    const auto version = number_at<std::uint8_t>(bytes, 8);
    const auto flags = number_at<std::uint32_t>(bytes, 48);
    if (version == 7) return static_cast<int>(flags & 0xFF);
    if (version == 8) return static_cast<int>(flags >> 8 & 0xFF);
    throw CubinError("its binary interface has version " + std::to_string(version) + "; expected 7 or 8");
}

void read_parameter(std::span<const std::byte> payload, Cubin& cubin) {
    const auto index = number_at<std::uint16_t>(payload, 4);
    if (index >= kMaxParameters) throw CubinError("it has a parameter " + std::to_string(index));
    if (cubin.parameters.size() <= index) cubin.parameters.resize(index + std::size_t{1});
    cubin.parameters[index] = {number_at<std::uint16_t>(payload, 6), number_at<std::uint32_t>(payload, 8) >> 18};
}

void read_attributes(std::span<const std::byte> info, Cubin& cubin) {
    for (std::size_t at = 0; at < info.size();) {
        const auto form = number_at<std::uint8_t>(info, at);
        const auto attribute = number_at<std::uint8_t>(info, at + 1);
        const auto value = number_at<std::uint16_t>(info, at + 2);
        at += 4;
        if (form < kNone || form > kPayload) throw CubinError("its .nv.info section is damaged");
        if (form == kHalf && attribute == kParameterBytes) cubin.parameter_bytes = value;
        if (form != kPayload) continue;
        const std::span<const std::byte> payload = part(info, at, value);
        at += value;
        if (attribute == kParameter) read_parameter(payload, cubin);
        if (attribute == kRequiredThreads)
            for (std::size_t i = 0; i < 3; ++i)
                cubin.required_threads[i] = number_at<std::uint32_t>(payload, i * sizeof(std::uint32_t));
    }
}

}  // namespace

Cubin read_cubin(std::span<const std::byte> bytes) {
    constexpr unsigned char kMagic[] = {0x7F, 'E', 'L', 'F', 2, 1, 1};  // 64 bits, little-endian
    if (bytes.size() < kHeaderBytes || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0 ||
        number_at<std::uint16_t>(bytes, 18) != kMachineCuda)
        throw CubinError("it is no cubin");
    Cubin cubin;
    cubin.arch = read_arch(bytes);
    const std::vector<Section> sections = read_sections(bytes);
    std::size_t entries = 0;
    for (const Section& section : sections) {
        if (!section.name.starts_with(kText)) continue;
        cubin.entry = section.name.substr(kText.size());
        ++entries;
    }
    if (entries != 1) throw CubinError("it has " + std::to_string(entries) + " entries; expected 1");
    const auto info = std::ranges::find(sections, std::string(kInfo) + cubin.entry, &Section::name);
    if (info == sections.end()) throw CubinError("it has no section .nv.info." + cubin.entry);
    read_attributes(info->bytes, cubin);
    return cubin;
}

}  // namespace lightwam::cuda
