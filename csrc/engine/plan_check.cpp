// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <unordered_set>

#include "engine/error_reporter.hpp"
#include "engine/intervals.hpp"
#include "engine/launch_plan.hpp"

namespace lightwam::engine {
namespace {

constexpr std::size_t kNever = static_cast<std::size_t>(-1);

std::string number(std::uint64_t value) { return std::to_string(value); }

std::string range_text(std::uint64_t begin, std::uint64_t bytes) {
    return "bytes " + number(begin) + " to " + number(begin + bytes);
}

// The bytes of the weights' block that tensors fill.
Intervals check_weights(const LaunchPlan& plan, const Graph& graph) {
    Intervals filled;
    for (const PlanWeight& weight : plan.weights) {
        const Tensor& tensor = graph.tensors[weight.tensor];
        const std::string where = "launch plan: weight '" + tensor.name + "'";
        if (weight.offset % kAddressAlignment != 0)
            fail(where + ": offset " + number(weight.offset) + "; expected a multiple of 16");
        if (weight.offset > plan.weights_bytes || tensor.bytes > plan.weights_bytes - weight.offset)
            fail(where + " is " + range_text(weight.offset, tensor.bytes) + " of a block of " +
                 number(plan.weights_bytes));
        if (filled.intersects(weight.offset, weight.offset + tensor.bytes))
            fail(where + ": " + range_text(weight.offset, tensor.bytes) + " overlap another weight");
        filled.add(weight.offset, weight.offset + tensor.bytes);
    }
    return filled;
}

// Where an argument of a launch lies.
struct Extent {
    const PlanArgument* argument = nullptr;
    bool weight = false;
    std::size_t buffer = 0;
    std::uint64_t begin = 0;  // in the weights or in the buffer
    std::uint64_t bytes = 0;  // 0: a frame
};

class ProgramCheck {
  public:
    ProgramCheck(const LaunchPlan& plan, const Graph& graph, const Intervals& weights, bool is_act)
        : plan_(plan),
          policy_(graph.policy),
          weights_(weights),
          program_(is_act ? plan.act : plan.set_instruction),
          is_act_(is_act),
          instruction_bytes_(graph.instruction_bytes),
          actions_(graph.act.values[graph.act.outputs[0].index].name),
          where_(std::string("launch plan: program '") + (is_act ? "act'" : "set_instruction'")),
          first_write_(program_.buffers.size(), kNever),
          last_access_(program_.buffers.size(), 0),
          written_(program_.buffers.size()) {}

    // `instruction`: the bytes of the instruction's block that set_instruction writes; it adds, act only reads.
    void run(Intervals& instruction) {
        std::unordered_set<std::string_view> names;
        for (const PlanBuffer& buffer : program_.buffers) {
            if (!names.insert(buffer.name).second) fail(text(buffer) + " is there twice");
            check_buffer(buffer);
        }
        find_lives();
        for (std::size_t at = 0; at < program_.launches.size(); ++at) check_launch(at, instruction);
        std::size_t outputs = 0;
        for (std::size_t i = 0; i < program_.buffers.size(); ++i) {
            const PlanBuffer& buffer = program_.buffers[i];
            if (buffer.space != Space::output) continue;
            if (!written_[i].covers(0, *buffer.bytes)) fail(text(buffer) + " is not written as a whole");
            ++outputs;
        }
        if (outputs != (is_act_ ? 1U : 0U))
            fail(where_ + ": has " + number(outputs) + " outputs; expected " + (is_act_ ? "'actions'" : "none"));
    }

  private:
    std::string text(const PlanBuffer& buffer) const { return where_ + ": buffer '" + buffer.name + "'"; }
    std::string text(const Launch& launch) const { return where_ + ": launch '" + launch.name + "'"; }
    std::string text(const Launch& launch, const Extent& extent) const {
        return text(launch) + ": argument '" + extent.argument->name + "'";
    }

    void check_buffer(const PlanBuffer& buffer) const {
        switch (buffer.space) {
            case Space::arena:
                check_block(buffer, kArenaAlignment, program_.arena_bytes);
                break;
            case Space::instruction:
                check_block(buffer, kAlignment, instruction_bytes_);
                break;
            case Space::input:
                check_bound(buffer, input_bytes(buffer));
                break;
            case Space::output:
                if (!is_act_ || (buffer.name != "actions" && buffer.name != actions_))
                    fail(text(buffer) + ": this output is unknown");
                check_bound(buffer, floats(policy_.horizon * policy_.action_width));
                break;
        }
    }

    void check_block(const PlanBuffer& buffer, std::uint64_t alignment, std::uint64_t size) const {
        if (!buffer.bytes) fail(text(buffer) + ": 'bytes' is null; only a camera's frame may be of any size");
        if (buffer.offset % alignment != 0)
            fail(text(buffer) + ": offset " + number(buffer.offset) + "; expected a multiple of " + number(alignment));
        if (buffer.offset > size || *buffer.bytes > size - buffer.offset)
            fail(text(buffer) + " is " + range_text(buffer.offset, *buffer.bytes) + " of a block of " + number(size));
    }

    // Inputs and outputs are blocks of their own.
    void check_bound(const PlanBuffer& buffer, std::optional<std::uint64_t> expected) const {
        const auto bytes_text = [](std::optional<std::uint64_t> bytes) { return bytes ? number(*bytes) : "null"; };
        if (buffer.offset != 0) fail(text(buffer) + ": offset " + number(buffer.offset) + "; expected 0");
        if (buffer.bytes != expected)
            fail(text(buffer) + ": 'bytes' is " + bytes_text(buffer.bytes) + "; expected " + bytes_text(expected));
    }

    static std::uint64_t floats(std::int64_t count) { return static_cast<std::uint64_t>(count) * sizeof(float); }

    std::optional<std::uint64_t> input_bytes(const PlanBuffer& buffer) const {
        const std::string& name = buffer.name;
        if (!is_act_) {
            if (name == "context") return floats(policy_.context_rows * policy_.text_width);
            if (name == "text_rows") return sizeof(std::int32_t);
        } else if (name == "state") {
            return floats(policy_.state_width);
        } else if (!policy_.starts_at_images) {
            if (name == "latents") return floats(policy_.latent_count());
        } else if (name == "frame_sizes") {
            return policy_.cameras.size() * 2 * sizeof(std::int32_t);
        } else if (name.starts_with(kFramePrefix)) {
            const std::string_view camera = std::string_view(name).substr(kFramePrefix.size());
            if (std::ranges::find(policy_.cameras, camera, &CameraInfo::name) != policy_.cameras.end())
                return std::nullopt;
        }
        fail(text(buffer) + ": this input is unknown");
    }

    void find_lives() {
        for (std::size_t at = 0; at < program_.launches.size(); ++at) {
            const Launch& launch = program_.launches[at];
            for (std::size_t i = 0; i < launch.arguments.size(); ++i) {
                const PlanAddress& address = launch.arguments[i];
                if (address.weight) continue;
                last_access_[address.buffer] = at;
                const bool written = plan_.tasks[launch.task].arguments[i].written;
                if (written && first_write_[address.buffer] == kNever) first_write_[address.buffer] = at;
            }
        }
        // What set_instruction writes stays for act.
        for (std::size_t i = 0; i < program_.buffers.size(); ++i)
            if (program_.buffers[i].space == Space::instruction) last_access_[i] = program_.launches.size();
    }

    void check_launch(std::size_t at, Intervals& instruction) {
        const Launch& launch = program_.launches[at];
        std::vector<Extent> extents;
        for (std::size_t i = 0; i < launch.arguments.size(); ++i) extents.push_back(locate(launch, i));
        for (const Extent& extent : extents) {
            if (extent.argument->written)
                check_write(at, launch, extent);
            else
                check_read(launch, extent, instruction);
        }
        check_overlaps(launch, extents);
        check_side(at, launch, extents);
        for (const Extent& extent : extents) {
            if (!extent.argument->written) continue;
            written_[extent.buffer].add(extent.begin, extent.begin + extent.bytes);
            const PlanBuffer& buffer = program_.buffers[extent.buffer];
            if (buffer.space == Space::instruction)
                instruction.add(buffer.offset + extent.begin, buffer.offset + extent.begin + extent.bytes);
        }
        end_lives(at, extents);
    }

    Extent locate(const Launch& launch, std::size_t index) const {
        const PlanAddress& address = launch.arguments[index];
        Extent extent{&plan_.tasks[launch.task].arguments[index], address.weight, address.buffer, address.offset, 0};
        const std::optional<std::uint64_t> size =
            address.weight ? plan_.weights_bytes : program_.buffers[address.buffer].bytes;
        if (!extent.argument->bytes || !size) {
            if (extent.argument->bytes || size || address.offset != 0)
                fail(text(launch, extent) + ": a frame of any size and bytes of a known number do not go together");
            return extent;
        }
        extent.bytes = *extent.argument->bytes;
        if (extent.begin % kAddressAlignment != 0)
            fail(text(launch, extent) + ": offset " + number(extent.begin) + "; expected a multiple of 16");
        if (extent.begin > *size || extent.bytes > *size - extent.begin)
            fail(text(launch, extent) + " is " + range_text(extent.begin, extent.bytes) + " of " + name(extent) +
                 ", which has " + number(*size));
        return extent;
    }

    std::string name(const Extent& extent) const {
        return extent.weight ? "the weights" : "buffer '" + program_.buffers[extent.buffer].name + "'";
    }

    void check_read(const Launch& launch, const Extent& extent, const Intervals& instruction) const {
        const std::uint64_t end = extent.begin + extent.bytes;
        bool known = false;
        if (extent.weight) {
            known = weights_.covers(extent.begin, end);
        } else {
            const PlanBuffer& buffer = program_.buffers[extent.buffer];
            if (buffer.space == Space::input)
                known = true;
            else if (is_act_ && buffer.space == Space::instruction)
                known = instruction.covers(buffer.offset + extent.begin, buffer.offset + end);
            else
                known = written_[extent.buffer].covers(extent.begin, end);
        }
        if (!known)
            fail(text(launch, extent) + " reads " + range_text(extent.begin, extent.bytes) + " of " + name(extent) +
                 " before anything writes them all");
    }

    void check_write(std::size_t at, const Launch& launch, const Extent& extent) {
        const bool read_only = extent.weight || program_.buffers[extent.buffer].space == Space::input ||
                               (is_act_ && program_.buffers[extent.buffer].space == Space::instruction);
        if (read_only) fail(text(launch, extent) + " writes " + name(extent) + ", which is read-only here");
        if (first_write_[extent.buffer] == at) begin_life(launch, extent);
    }

    using Blocks = std::map<std::uint64_t, std::size_t>;  // offset -> buffer that lives there

    Blocks* lives(std::size_t buffer) {
        const Space space = program_.buffers[buffer].space;
        if (space == Space::arena) return &arena_;
        return space == Space::instruction ? &instruction_ : nullptr;
    }

    void begin_life(const Launch& launch, const Extent& extent) {
        Blocks* const live = lives(extent.buffer);
        if (live == nullptr) return;
        const PlanBuffer& buffer = program_.buffers[extent.buffer];
        const auto next = live->lower_bound(buffer.offset + *buffer.bytes);
        // Buffers that live share no byte, so the last one that begins before the end reaches farthest.
        if (next != live->begin()) {
            const PlanBuffer& other = program_.buffers[std::prev(next)->second];
            if (std::prev(next)->second != extent.buffer && other.offset + *other.bytes > buffer.offset)
                fail(text(launch, extent) + " writes buffer '" + buffer.name + "' over buffer '" + other.name +
                     "', which is still in use");
        }
        live->emplace(buffer.offset, extent.buffer);
    }

    void end_lives(std::size_t at, const std::vector<Extent>& extents) {
        for (const Extent& extent : extents) {
            if (extent.weight || last_access_[extent.buffer] != at) continue;
            Blocks* const live = lives(extent.buffer);
            if (live == nullptr) continue;
            const auto found = live->find(program_.buffers[extent.buffer].offset);
            if (found != live->end() && found->second == extent.buffer) live->erase(found);
        }
    }

    // Of one launch: nothing that it writes is read or written through another argument.
    void check_overlaps(const Launch& launch, const std::vector<Extent>& extents) const {
        for (std::size_t i = 0; i < extents.size(); ++i) {
            const Extent& a = extents[i];
            if (!a.argument->written) continue;
            for (std::size_t j = 0; j < extents.size(); ++j) {
                const Extent& b = extents[j];
                // Other buffers with the same bytes fail as lives that overlap.
                if (j == i || b.weight || b.buffer != a.buffer) continue;
                if (a.begin < b.begin + b.bytes && b.begin < a.begin + a.bytes)
                    fail(text(launch, a) + " is written, but argument '" + b.argument->name +
                         "' has some of the same bytes");
            }
        }
    }

    // What runs beside a side stream may come before, after or between its launches, so it touches no byte that the
    // side stream writes. What that reads is read-only here, or written by itself before.
    void check_side(std::size_t at, const Launch& launch, const std::vector<Extent>& extents) {
        if (at >= program_.side.join) return;
        const bool beside = at >= program_.side.launches;
        for (const Extent& extent : extents) {
            if (extent.weight || (!beside && !extent.argument->written)) continue;
            const PlanBuffer& buffer = program_.buffers[extent.buffer];
            Intervals& side = side_[buffer.space];
            const std::uint64_t begin = buffer.offset + extent.begin;
            if (!beside)
                side.add(begin, begin + extent.bytes);
            else if (side.intersects(begin, begin + extent.bytes))
                fail(text(launch, extent) + " has bytes that the side stream writes, which runs beside it");
        }
    }

    const LaunchPlan& plan_;
    const PolicyDescription& policy_;
    const Intervals& weights_;
    const PlanProgram& program_;
    const bool is_act_;
    const std::uint64_t instruction_bytes_;
    const std::string& actions_;  // the graph's name of the output 'actions'
    const std::string where_;
    std::vector<std::size_t> first_write_;  // by buffer: index of a launch
    std::vector<std::size_t> last_access_;
    std::vector<Intervals> written_;   // by buffer
    std::map<Space, Intervals> side_;  // bytes that the side stream writes
    Blocks arena_;
    Blocks instruction_;
};

}  // namespace

void check_launch_plan(const LaunchPlan& plan, const Graph& graph) {
    const Intervals weights = check_weights(plan, graph);
    Intervals instruction;
    ProgramCheck(plan, graph, weights, false).run(instruction);
    ProgramCheck(plan, graph, weights, true).run(instruction);
}

}  // namespace lightwam::engine
