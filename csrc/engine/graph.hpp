// SPDX-License-Identifier: Apache-2.0
// The graph of an engine file as plain structs (engine-format.md). Shapes are static; indices are into the
// vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/names.hpp"
#include "lightwam/policy.hpp"

namespace lightwam::engine {

// f8: e4m3 without infinities; 0x7F and 0xFF are NaN, 448 is the largest number.
enum class DType : std::uint8_t { f32, bf16, f16, f8, i8, i32 };
enum class Storage : std::uint8_t { arena, input, instruction };
enum class Precision : std::uint8_t { f32, bf16, f16, int8, fp8 };
enum class Activation : std::uint8_t { none, silu, gelu, gelu_tanh };

#define LIGHTWAM_OP(name, inputs, constants, outputs, rows) name,
enum class OpKind : std::uint8_t {
#include "engine/ops.def"
};

using Shape = std::vector<std::int64_t>;

// Offsets of arena and instruction values are multiples of this.
inline constexpr std::uint64_t kAlignment = 64;
// A declared block (arena, instruction) is at most this long.
inline constexpr std::uint64_t kMaxBlockBytes = std::uint64_t{16} << 30;
// A tensor or value has at most this many elements, so that products of sizes stay within 64 bits.
inline constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;
inline constexpr std::size_t kMaxRank = 6;

struct DTypeRow {
    DType value;
    const char* name;
    std::size_t bytes;
    const char* stored;  // its name in a safetensors file; null: no tensor has it
};
inline constexpr DTypeRow kDTypes[] = {{DType::f32, "f32", 4, "F32"}, {DType::bf16, "bf16", 2, "BF16"},
                                       {DType::f16, "f16", 2, "F16"}, {DType::f8, "f8", 1, "F8_E4M3"},
                                       {DType::i8, "i8", 1, "I8"},    {DType::i32, "i32", 4, nullptr}};
constexpr std::size_t dtype_bytes(DType dtype) noexcept { return row_of(kDTypes, dtype).bytes; }
constexpr const char* dtype_name(DType dtype) noexcept { return row_of(kDTypes, dtype).name; }
// i8 and f8, which stand for numbers together with scales.
constexpr bool is_eight_bit(DType dtype) noexcept { return dtype == DType::i8 || dtype == DType::f8; }
constexpr bool is_float(DType dtype) noexcept {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

inline constexpr Named<Storage> kStorages[] = {
    {Storage::arena, "arena"}, {Storage::input, "input"}, {Storage::instruction, "instruction"}};
inline constexpr Named<Precision> kPrecisions[] = {{Precision::f32, "f32"},
                                                   {Precision::bf16, "bf16"},
                                                   {Precision::f16, "f16"},
                                                   {Precision::int8, "int8"},
                                                   {Precision::fp8, "fp8"}};
constexpr const char* precision_name(Precision precision) noexcept { return row_of(kPrecisions, precision).name; }
inline constexpr Named<Activation> kActivations[] = {{Activation::none, "none"},
                                                     {Activation::silu, "silu"},
                                                     {Activation::gelu, "gelu"},
                                                     {Activation::gelu_tanh, "gelu_tanh"}};
inline constexpr Named<Stage> kStages[] = {{Stage::preprocess, "preprocess"},   {Stage::vae, "vae"},
                                           {Stage::backbone, "backbone"},       {Stage::expert, "expert"},
                                           {Stage::postprocess, "postprocess"}, {Stage::text, "text"}};
static_assert(std::size(kStages) == kStageCount);

// What ops.def says of an op.
enum class OpRows : std::uint8_t { whole, row_wise };
struct OpRow {
    OpKind value;
    const char* name;
    const char* inputs;
    const char* constants;
    const char* outputs;
    OpRows rows;
};
#define LIGHTWAM_OP(name, inputs, constants, outputs, rows) \
    {OpKind::name, #name, inputs, constants, outputs, OpRows::rows},
inline constexpr OpRow kOps[] = {
#include "engine/ops.def"
};
constexpr const OpRow& op_row(OpKind kind) noexcept { return row_of(kOps, kind); }
constexpr const char* op_name(OpKind kind) noexcept { return op_row(kind).name; }
// The marks behind a role in a list of ops.def; none where the list has no such role.
std::optional<std::string_view> role_marks(std::string_view roles, std::string_view role) noexcept;

// "[2, 3]".
std::string shape_text(const Shape& shape);
// Product of the dimensions; -1 when the rank, a dimension or the product is out of range.
std::int64_t element_count(const Shape& shape) noexcept;

// A constant of the file.
struct Tensor {
    std::string name;
    DType dtype = DType::f32;  // any but i32
    Shape shape;
    std::uint64_t offset = 0;  // of its first byte in the file
    std::size_t bytes = 0;
    std::optional<std::uint32_t> checksum;  // CRC-32 of its bytes
    bool positive = false;                  // the scales of a quantised weight must be
    bool opaque = false;                    // i8 that holds machine code: any byte
};

struct Value {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    Storage storage = Storage::arena;
    std::uint64_t offset = 0;  // of arena and instruction values
    std::uint64_t bytes = 0;
};

// A role of an op bound to a value or a tensor.
struct Binding {
    std::string role;
    std::size_t index = 0;
};

// The attributes of an op, as its check (op_table.cpp) took them.
struct Attributes {
    std::map<std::string, double> numbers;  // whole ones are exact
    std::int64_t padding[4] = {};           // top, left, bottom, right
    Activation activation = Activation::none;
};

struct Op {
    OpKind kind = OpKind::reshape;
    std::string name;
    Stage stage = Stage::backbone;
    std::vector<Binding> inputs;     // values
    std::vector<Binding> constants;  // tensors
    std::vector<Binding> outputs;    // values
    Attributes attributes;
};

struct Program {
    std::uint64_t arena_bytes = 0;
    std::vector<Value> values;
    std::vector<Binding> outputs;
    std::vector<Op> ops;
};

struct TextEncoder {
    bool present = false;
    std::size_t embedding = 0;       // tensor [buckets, text_width]
    std::size_t position = 0;        // tensor [L, text_width]
    std::vector<std::string> words;  // seen in training; empty where the engine does not tell them
};

struct KnownInstruction {
    std::string text;
    std::size_t context = 0;  // tensor [n, text_width]
};

struct PolicyDescription : PolicySizes {
    std::int64_t canvas_height = 0;
    std::int64_t canvas_width = 0;
    std::int64_t context_rows = 0;
    std::int64_t text_width = 0;
    std::string prompt_template;  // holds "{task}" once
    TextEncoder text_encoder;
    std::vector<KnownInstruction> instructions;
};

struct Graph {
    std::string name;
    Precision precision = Precision::f32;
    PolicyDescription policy;
    std::uint64_t instruction_bytes = 0;
    std::vector<Tensor> tensors;
    Program set_instruction;
    Program act;
};

// A checked observation. images: one for each camera of the engine, in its order; null pointers for what the engine
// does not read.
struct ActInputs {
    const float* state = nullptr;
    const float* latents = nullptr;
    const ImageView* const* images = nullptr;
};

// The tensors that instructions are encoded with.
std::vector<std::size_t> text_constants(const Graph& graph);

// Index of `role`; npos when absent.
inline constexpr std::size_t npos = static_cast<std::size_t>(-1);
std::size_t find_role(const std::vector<Binding>& bindings, std::string_view role) noexcept;

// The matrix view of a shape: [product of the leading dimensions, last dimension].
struct Matrix {
    std::int64_t rows = 1;
    std::int64_t columns = 1;
    bool operator==(const Matrix&) const = default;
};
Matrix matrix_view(const Shape& shape) noexcept;

}  // namespace lightwam::engine
