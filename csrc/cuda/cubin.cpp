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
// Those that begin with a symbol's index: frame, smallest and largest stack, registers.
constexpr std::uint8_t kOfSymbols[] = {0x11, 0x12, 0x23, 0x2F};

// Types of sections, as in the specification, and the vendor's list of attributes.
enum SectionType : std::uint32_t {
    kNull = 0,
    kSymbols = 2,
    kStrings = 3,
    kAddendRelocations = 4,
    kNoBits = 8,  // without bytes in the file
    kRelocations = 9,
    kDynamicSymbols = 11,
    kCudaInfo = 0x70000000
};

struct Section {
    std::string_view name;
    std::uint32_t type = kNull;
    std::uint64_t flags = 0;
    std::uint64_t size = 0;
    std::uint32_t link = 0;
    std::uint32_t info = 0;
    std::uint64_t entry_bytes = 0;
    std::span<const std::byte> bytes;
};

template <typename T>
T number_at(std::span<const std::byte> bytes, std::size_t offset) {
    if (offset > bytes.size() || sizeof(T) > bytes.size() - offset) throw CubinError("it is truncated");
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
}

std::span<const std::byte> part(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t size,
                                const char* what = "a section") {
    if (offset > bytes.size() || size > bytes.size() - offset)
        throw CubinError(std::string(what) + " runs past its end");
    return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
}

[[noreturn]] void damaged(const char* table) { throw CubinError(std::string("its table of ") + table + " is damaged"); }

// The name that begins at `offset` of a table of strings.
std::string_view name_at(std::span<const std::byte> strings, std::uint32_t offset) {
    if (offset >= strings.size()) {
        if (offset == 0) return {};  // of a table without bytes
        damaged("names");
    }
    const std::span<const std::byte> rest = strings.subspan(offset);
    const void* const end = std::memchr(rest.data(), 0, rest.size());
    if (end == nullptr) damaged("names");
    const auto* const text = reinterpret_cast<const char*>(rest.data());
    return {text, static_cast<std::size_t>(static_cast<const char*>(end) - text)};
}

std::vector<Section> read_sections(std::span<const std::byte> bytes) {
    const auto count = number_at<std::uint16_t>(bytes, 60);
    const auto names_index = number_at<std::uint16_t>(bytes, 62);
    if (number_at<std::uint16_t>(bytes, 58) != kSectionBytes || names_index >= count) damaged("sections");
    const std::span<const std::byte> headers =
        part(bytes, number_at<std::uint64_t>(bytes, 40), count * kSectionBytes, "its table of sections");
    std::vector<Section> sections;
    for (std::size_t i = 0; i < count; ++i) {
        const std::span<const std::byte> header = headers.subspan(i * kSectionBytes, kSectionBytes);
        Section& section = sections.emplace_back();
        section.type = number_at<std::uint32_t>(header, 4);
        section.flags = number_at<std::uint64_t>(header, 8);
        section.size = number_at<std::uint64_t>(header, 32);
        section.link = number_at<std::uint32_t>(header, 40);
        section.info = number_at<std::uint32_t>(header, 44);
        section.entry_bytes = number_at<std::uint64_t>(header, 56);
        if (section.type != kNoBits) section.bytes = part(bytes, number_at<std::uint64_t>(header, 24), section.size);
    }
    // Section 0 holds what does not fit into the header, which a cubin never needs.
    const Section& none = sections.front();
    if (none.type != kNull || none.size != 0 || none.link != 0 || none.info != 0)
        throw CubinError("its section 0 is not empty");
    for (std::size_t i = 1; i < count; ++i)
        sections[i].name = name_at(sections[names_index].bytes, number_at<std::uint32_t>(headers, i * kSectionBytes));
    return sections;
}

// The parts that a loader would copy to the GPU.
void check_segments(std::span<const std::byte> bytes) {
    constexpr std::size_t kSegmentBytes = 56;
    const auto count = number_at<std::uint16_t>(bytes, 56);
    if (count == 0) return;
    if (number_at<std::uint16_t>(bytes, 54) != kSegmentBytes || count == 0xFFFF) damaged("segments");
    const std::span<const std::byte> headers =
        part(bytes, number_at<std::uint64_t>(bytes, 32), count * kSegmentBytes, "its table of segments");
    for (std::size_t at = 0; at < headers.size(); at += kSegmentBytes)
        part(bytes, number_at<std::uint64_t>(headers, at + 8), number_at<std::uint64_t>(headers, at + 32), "a segment");
}

std::size_t entry_count(const Section& section, std::size_t entry_bytes, const char* table) {
    if (section.entry_bytes != entry_bytes || section.bytes.size() % entry_bytes != 0) damaged(table);
    return section.bytes.size() / entry_bytes;
}

constexpr std::size_t kSymbolBytes = 24;

bool is_symbols(const Section& section) { return section.type == kSymbols || section.type == kDynamicSymbols; }

void check_symbols(const std::vector<Section>& sections, const Section& symbols) {
    constexpr std::uint16_t kFirstReserved = 0xFF00;  // not an index
    constexpr std::uint16_t kElsewhere = 0xFFFF;      // in a table that a cubin never needs
    const std::size_t count = entry_count(symbols, kSymbolBytes, "symbols");
    if (sections[symbols.link].type != kStrings || symbols.info > count) damaged("symbols");
    for (std::size_t i = 0; i < count; ++i) {
        const std::span<const std::byte> symbol = symbols.bytes.subspan(i * kSymbolBytes, kSymbolBytes);
        name_at(sections[symbols.link].bytes, number_at<std::uint32_t>(symbol, 0));
        const auto home = number_at<std::uint16_t>(symbol, 6);
        if (home == kElsewhere) damaged("symbols");
        if (home == 0 || home >= kFirstReserved) continue;
        const auto value = number_at<std::uint64_t>(symbol, 8);
        if (home >= sections.size() || value > sections[home].size ||
            number_at<std::uint64_t>(symbol, 16) > sections[home].size - value)
            damaged("symbols");
    }
}

void check_relocations(const std::vector<Section>& sections, const Section& section) {
    const std::size_t entry_bytes = section.type == kRelocations ? 16 : 24;
    const std::size_t count = entry_count(section, entry_bytes, "relocations");
    if (count > 0 && (section.info >= sections.size() || !is_symbols(sections[section.link]))) damaged("relocations");
    for (std::size_t at = 0; at < section.bytes.size(); at += entry_bytes) {
        const auto place = number_at<std::uint64_t>(section.bytes, at);
        const auto symbol = number_at<std::uint64_t>(section.bytes, at + 8) >> 32U;
        const std::size_t room = sections[section.info].bytes.size();
        if (place > room || room - place < sizeof(std::uint32_t) ||
            symbol >= sections[section.link].bytes.size() / kSymbolBytes)
            damaged("relocations");
    }
}

// Every index and offset that the tables hold: a driver follows them, and is not told where the file ends.
void check_tables(const std::vector<Section>& sections) {
    constexpr std::uint64_t kInfoIsSection = 0x40;
    for (const Section& section : sections) {
        if (section.link >= sections.size()) damaged("sections");
        if ((section.flags & kInfoIsSection) != 0 && section.info >= sections.size()) damaged("sections");
        if (section.type == kStrings && !section.bytes.empty() && section.bytes.back() != std::byte{0})
            damaged("names");
        if (is_symbols(section)) check_symbols(sections, section);
        if (section.type == kRelocations || section.type == kAddendRelocations) check_relocations(sections, section);
    }
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

// Calls `take(attribute, value, payload)` for each entry of a list of attributes.
template <typename Take>
void for_attributes(std::span<const std::byte> info, Take&& take) {
    for (std::size_t at = 0; at < info.size();) {
        const auto form = number_at<std::uint8_t>(info, at);
        const auto attribute = number_at<std::uint8_t>(info, at + 1);
        const auto value = number_at<std::uint16_t>(info, at + 2);
        at += 4;
        if (form < kNone || form > kPayload) throw CubinError("its .nv.info section is damaged");
        std::span<const std::byte> payload;
        if (form == kPayload) payload = part(info, at, value);
        at += payload.size();
        take(form, attribute, value, payload);
    }
}

void read_attributes(std::span<const std::byte> info, Cubin& cubin) {
    for_attributes(
        info, [&](std::uint8_t form, std::uint8_t attribute, std::uint16_t value, std::span<const std::byte> payload) {
            if (form == kHalf && attribute == kParameterBytes) cubin.parameter_bytes = value;
            if (form == kPayload && attribute == kParameter) read_parameter(payload, cubin);
            if (form == kPayload && attribute == kRequiredThreads)
                for (std::size_t i = 0; i < 3; ++i)
                    cubin.required_threads[i] = number_at<std::uint32_t>(payload, i * sizeof(std::uint32_t));
        });
}

// What the lists of attributes say of functions by their symbol.
void check_attributes(const std::vector<Section>& sections) {
    const auto symbols = std::ranges::find_if(sections, is_symbols);
    const std::size_t count = symbols == sections.end() ? 0 : symbols->bytes.size() / kSymbolBytes;
    for (const Section& section : sections) {
        if (section.type != kCudaInfo) continue;
        for_attributes(section.bytes, [&](std::uint8_t form, std::uint8_t attribute, std::uint16_t,
                                          std::span<const std::byte> payload) {
            const bool of_symbol = std::ranges::find(kOfSymbols, attribute) != std::end(kOfSymbols);
            if (form == kPayload && of_symbol && number_at<std::uint32_t>(payload, 0) >= count)
                throw CubinError("its .nv.info section is damaged");
        });
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
    check_segments(bytes);
    check_tables(sections);
    check_attributes(sections);
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
