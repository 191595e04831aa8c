// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <numeric>

#include "engine/graph_reader.hpp"
#include "engine/op_checks.hpp"

namespace lightwam::engine {
namespace {

// A group: a value and every reshape of it, so the same bytes. It lives from its write to the last read of any of them.
class LifetimeCheck {
  public:
    LifetimeCheck(const Program& program, bool writes_instruction, const std::string& where)
        : program_(program),
          writes_instruction_(writes_instruction),
          where_(where),
          group_(program.values.size()),
          last_read_(program.values.size(), 0),
          written_(program.values.size(), false) {
        std::iota(group_.begin(), group_.end(), std::size_t{0});
    }

    void run() {
        join_reshapes();
        find_last_reads();
        for (std::size_t at = 0; at < program_.ops.size(); ++at) {
            const Op& op = program_.ops[at];
            for (const Binding& input : op.inputs) check_read(op, input);
            for (const Binding& output : op.outputs) check_write(at, op, output);
            end_lives(at, op);
        }
        for (const Binding& output : program_.outputs)
            if (!written_[output.index]) fail(where_ + ": output '" + output.role + "' is never written");
    }

  private:
    using Blocks = std::map<std::uint64_t, std::size_t>;  // offset -> group that lives there

    std::string op_text(const Op& op) const {
        return where_ + ": op '" + op.name + "' (" + std::string(op_name(op.kind)) + ")";
    }
    static std::string type_text(const Value& value) {
        return (std::string(dtype_name(value.dtype)) += ' ') += shape_text(value.shape);
    }
    const std::string& name(std::size_t value) const { return program_.values[value].name; }

    // A reshape's output joins its input's group. Ops come in order, so an input's own group is already final.
    void join_reshapes() {
        for (const Op& op : program_.ops)
            if (op.kind == OpKind::reshape) group_[op.outputs[0].index] = group_[op.inputs[0].index];
    }

    void find_last_reads() {
        for (std::size_t at = 0; at < program_.ops.size(); ++at) {
            for (const Binding& input : program_.ops[at].inputs) last_read_[group_[input.index]] = at;
            for (const Binding& output : program_.ops[at].outputs) {
                std::size_t& last = last_read_[group_[output.index]];
                if (last < at) last = at;
            }
        }
        for (const Binding& output : program_.outputs) last_read_[group_[output.index]] = program_.ops.size();
        for (std::size_t i = 0; i < program_.values.size(); ++i)
            if (program_.values[i].storage == Storage::instruction) last_read_[group_[i]] = program_.ops.size();
    }

    void check_read(const Op& op, const Binding& input) const {
        const Storage storage = program_.values[input.index].storage;
        if (storage == Storage::input || (storage == Storage::instruction && !writes_instruction_)) return;
        if (!written_[input.index]) fail(op_text(op) + " reads '" + name(input.index) + "' before any op writes it");
    }

    void check_write(std::size_t at, const Op& op, const Binding& output) {
        const Value& value = program_.values[output.index];
        if (value.storage == Storage::input || (value.storage == Storage::instruction && !writes_instruction_))
            fail(op_text(op) + " writes '" + value.name + "', which is read-only in this program");
        if (written_[output.index]) fail(op_text(op) + " writes '" + value.name + "' a second time");
        written_[output.index] = true;
        if (op.kind == OpKind::reshape) return;
        Blocks& live = value.storage == Storage::arena ? arena_ : instruction_;
        remove_replaced(at, op, value, live);
        live[value.offset] = output.index;
    }

    // Whatever lives where `value` will be written must be an input that the op may overwrite, read here for the last
    // time.
    void remove_replaced(std::size_t at, const Op& op, const Value& value, Blocks& live) {
        auto block = live.lower_bound(value.offset);
        if (block != live.begin()) {
            const Value& before = program_.values[std::prev(block)->second];
            if (before.offset + before.bytes > value.offset) --block;
        }
        while (block != live.end() && block->first < value.offset + value.bytes) {
            const Value& other = program_.values[block->second];
            const bool same_bytes = other.offset == value.offset && other.bytes == value.bytes;
            if (!same_bytes || last_read_[block->second] != at || !replaceable(op, block->second))
                fail(op_text(op) + " writes '" + value.name + "' over '" + other.name + "', which is still in use");
            expect_same_type(op, value, block->second);
            block = live.erase(block);
        }
    }

    bool replaceable(const Op& op, std::size_t group) const {
        std::size_t reads = 0;
        bool allowed = false;
        for (const Binding& input : op.inputs) {
            if (group_[input.index] != group) continue;
            ++reads;
            allowed = allows_in_place(op.kind, input.role);
        }
        return reads == 1 && allowed;
    }

    // A kernel writes an element where it has read one: of another dtype or shape they would not lie alike.
    void expect_same_type(const Op& op, const Value& value, std::size_t group) const {
        for (const Binding& input : op.inputs) {
            const Value& read = program_.values[input.index];
            if (group_[input.index] != group || (read.dtype == value.dtype && read.shape == value.shape)) continue;
            fail(op_text(op) + " writes '" + value.name + "', " + type_text(value) + ", in place of '" + read.name +
                 "', " + type_text(read) + "; expected the same dtype and shape");
        }
    }

    void end_lives(std::size_t at, const Op& op) {
        for (const std::vector<Binding>* bindings : {&op.inputs, &op.outputs}) {
            for (const Binding& binding : *bindings) {
                const std::size_t group = group_[binding.index];
                const Value& value = program_.values[group];
                if (value.storage == Storage::input || last_read_[group] != at) continue;
                Blocks& live = value.storage == Storage::arena ? arena_ : instruction_;
                const auto block = live.find(value.offset);
                if (block != live.end() && block->second == group) live.erase(block);
            }
        }
    }

    const Program& program_;
    bool writes_instruction_;
    const std::string& where_;
    std::vector<std::size_t> group_;
    std::vector<std::size_t> last_read_;
    std::vector<bool> written_;
    Blocks arena_;
    Blocks instruction_;
};

}  // namespace

void check_lifetimes(const Program& program, bool writes_instruction, const std::string& where) {
    LifetimeCheck(program, writes_instruction, where).run();
}

}  // namespace lightwam::engine
