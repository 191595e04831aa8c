// SPDX-License-Identifier: Apache-2.0
// The launch plan of an engine file as plain structs (launch-plan.md, section 2): which kernel runs on which
// bytes, in which order. Indices are into the vectors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/graph.hpp"
#include "engine/json.hpp"

namespace lightwam::engine {

enum class Space : std::uint8_t { arena, instruction, input, output };
inline constexpr Named<Space> kSpaces[] = {
    {Space::arena, "arena"}, {Space::instruction, "instruction"}, {Space::input, "input"}, {Space::output, "output"}};

// Arena buffers start at multiples of kArenaAlignment; every address that a launch passes is a multiple of
// kAddressAlignment, which the machine code relies on.
inline constexpr std::uint64_t kArenaAlignment = 256;
inline constexpr std::uint64_t kAddressAlignment = 16;

// A tensor's place in the block of weights.
struct PlanWeight {
    std::size_t tensor = 0;
    std::uint64_t offset = 0;
};

// A GPU architecture that the plan has machine code for: cubin modules, one after the other in a tensor.
struct PlanTarget {
    std::string name;  // "sm_87"
    int arch = 0;      // 87
    std::size_t tensor = 0;
};

struct PlanArgument {
    std::string name;
    bool written = false;
    std::optional<std::uint64_t> bytes;  // none: a camera's frame
};

// One way to run a task: a cubin module with one entry, and how to launch it.
struct Tactic {
    std::string entry;
    std::uint64_t offset = 0;  // of the cubin module in the target's tensor
    std::uint64_t bytes = 0;
    std::array<std::uint32_t, 3> grid = {1, 1, 1};
    std::uint32_t threads = 32;
    std::uint32_t shared = 0;  // dynamic shared memory, bytes
    std::string note;
};

// A task that is y [rows, outputs] = act(x Wᵀ + bias) + residual of x [rows, inputs] and W [outputs, inputs], so that a
// library may compute it. Its arguments: x, weight (of x's format), [bias f32], [residual of y's], y. Never both a
// residual and an activation.
struct PlanLinear {
    std::int64_t rows = 0;
    std::int64_t outputs = 0;
    std::int64_t inputs = 0;
    DType x = DType::f32;
    DType y = DType::f32;
    bool gelu_tanh = false;
    bool bias = false;
    bool residual = false;
};

struct PlanTask {
    std::string kernel;
    std::string label;
    std::vector<PlanArgument> arguments;
    std::optional<PlanLinear> linear;
    std::vector<std::vector<Tactic>> tactics;  // [target][tactic]; the first is the default
};

struct PlanBuffer {
    std::string name;
    Space space = Space::arena;
    std::uint64_t offset = 0;
    std::optional<std::uint64_t> bytes;  // none: a camera's frame
};

// Where an argument points: into the weights or into a buffer.
struct PlanAddress {
    bool weight = false;
    std::size_t buffer = 0;
    std::uint64_t offset = 0;
};

struct Launch {
    std::string name;
    Stage stage = Stage::backbone;
    std::size_t task = 0;
    std::vector<PlanAddress> arguments;
};

// The first `launches` of a program run beside those from there to `join`, which waits for both. 0: no side stream.
struct PlanSide {
    std::size_t launches = 0;
    std::size_t join = 0;
};

struct PlanProgram {
    std::uint64_t arena_bytes = 0;
    std::vector<PlanBuffer> buffers;
    std::vector<Launch> launches;
    PlanSide side;
};

struct LaunchPlan {
    std::uint64_t weights_bytes = 0;
    std::vector<PlanWeight> weights;
    std::vector<PlanTarget> targets;
    std::vector<PlanTask> tasks;
    PlanProgram set_instruction;
    PlanProgram act;
};

// Name of a camera's frame among the input buffers: "frames.<camera>".
inline constexpr std::string_view kFramePrefix = "frames.";

// Reads the member `gpu` of the document and checks each number of it by itself. Marks the tensors of machine code as
// opaque.
LaunchPlan read_launch_plan(const JsonValue& gpu, Graph& graph);

// Checks what the parts say together: extents, the inputs and outputs of the policy, reads before writes, overlaps,
// side streams.
void check_launch_plan(const LaunchPlan& plan, const Graph& graph);

}  // namespace lightwam::engine
