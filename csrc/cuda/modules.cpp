// SPDX-License-Identifier: Apache-2.0
#include "cuda/modules.hpp"

#include <cstring>
#include <iterator>
#include <map>
#include <utility>

#include "cuda/cubin.hpp"

namespace lightwam::cuda {
namespace {

constexpr std::uint32_t kPointerBytes = 8;
// After the arguments a kernel takes two addresses of scratch memory, which ours do not use.
constexpr std::size_t kScratchParameters = 2;

using Place = std::pair<std::uint64_t, std::uint64_t>;  // offset and bytes of a cubin module in the code

std::span<const std::byte> cubin_of(const engine::Tactic& tactic, std::span<const std::byte> code) {
    return code.subspan(static_cast<std::size_t>(tactic.offset), static_cast<std::size_t>(tactic.bytes));
}

// Modules stand one after the other, so that all of them together are read once.
void expect_apart(const std::map<Place, Cubin>& cubins, const engine::Tactic& tactic, const std::string& where) {
    const auto next = cubins.lower_bound({tactic.offset, 0});
    const bool before =
        next != cubins.begin() && std::prev(next)->first.first + std::prev(next)->first.second > tactic.offset;
    if (before || (next != cubins.end() && next->first.first < tactic.offset + tactic.bytes))
        engine::fail("launch plan: " + where + ": its machine code, bytes " + std::to_string(tactic.offset) + " to " +
                     std::to_string(tactic.offset + tactic.bytes) + ", overlaps another tactic's");
}

// What does not fit between a tactic and its cubin; empty when all does.
std::string mismatch(const engine::Tactic& tactic, std::size_t arguments, const Cubin& cubin, int arch) {
    const auto differs = [](const std::string& what, const std::string& found, const std::string& expected) {
        return "its cubin has " + what + " " + found + "; expected " + expected;
    };
    if (cubin.arch != arch)
        return differs("architecture", "sm_" + std::to_string(cubin.arch), "sm_" + std::to_string(arch));
    if (cubin.entry != tactic.entry) return differs("entry", "'" + cubin.entry + "'", "'" + tactic.entry + "'");
    const std::size_t count = arguments + kScratchParameters;
    if (cubin.parameters.size() != count)
        return differs("a number of parameters of", std::to_string(cubin.parameters.size()), std::to_string(count));
    for (std::size_t i = 0; i < count; ++i) {
        const CubinParameter& parameter = cubin.parameters[i];
        if (parameter.bytes != kPointerBytes || parameter.offset != i * kPointerBytes)
            return differs("parameter " + std::to_string(i) + " of",
                           std::to_string(parameter.bytes) + " bytes at " + std::to_string(parameter.offset),
                           "8 at " + std::to_string(i * kPointerBytes));
    }
    const auto& threads = cubin.required_threads;
    if (threads != std::array<std::uint32_t, 3>{tactic.threads, 1, 1})
        return differs("a block of",
                       std::to_string(threads[0]) + " x " + std::to_string(threads[1]) + " x " +
                           std::to_string(threads[2]) + " threads",
                       std::to_string(tactic.threads));
    return "";
}

void check_limits(const engine::Tactic& tactic, const Gpu& gpu, const std::string& where) {
    const auto require = [&](const std::string& what, std::uint32_t needed, std::uint32_t limit) {
        throw Error(ErrorKind::device, where + " needs " + std::to_string(needed) + " " + what + ", but GPU '" +
                                           gpu.name + "' has " + std::to_string(limit));
    };
    if (tactic.threads > gpu.max_threads) require("threads a block", tactic.threads, gpu.max_threads);
    if (tactic.shared > gpu.max_shared) require("bytes of shared memory a block", tactic.shared, gpu.max_shared);
}

// A kernel that is loaded, launched as its tactic says.
class KernelCall final : public Call {
  public:
    KernelCall(const Driver& driver, Function function, const engine::Tactic& tactic)
        : driver_(driver), function_(function), tactic_(tactic) {}
    Result enqueue(Stream stream, std::span<const DeviceAddress> addresses) const override {
        std::vector<DeviceAddress> values(addresses.begin(), addresses.end());
        values.insert(values.end(), kScratchParameters, 0);  // no scratch memory
        std::vector<void*> parameters;
        parameters.reserve(values.size());
        for (DeviceAddress& value : values) parameters.push_back(&value);
        const auto& [x, y, z] = tactic_.grid;
        return driver_.launch_kernel(function_, x, y, z, tactic_.threads, 1, 1, tactic_.shared, stream,
                                     parameters.data(), nullptr);
    }

  private:
    const Driver& driver_;
    Function function_;
    const engine::Tactic& tactic_;
};

}  // namespace

void check_cubins(const engine::LaunchPlan& plan, const Gpu& gpu, std::span<const std::byte> code) {
    std::map<Place, Cubin> cubins;
    for (const engine::PlanTask& task : plan.tasks) {
        const std::vector<engine::Tactic>& tactics = task.tactics[gpu.target];
        for (std::size_t i = 0; i < tactics.size(); ++i) {
            const engine::Tactic& tactic = tactics[i];
            const std::string where = "task '" + task.label + "' (" + task.kernel + "), tactic " + std::to_string(i) +
                                      " of " + plan.targets[gpu.target].name;
            auto found = cubins.find({tactic.offset, tactic.bytes});
            if (found == cubins.end()) {
                expect_apart(cubins, tactic, where);
                try {
                    found =
                        cubins.emplace(Place{tactic.offset, tactic.bytes}, read_cubin(cubin_of(tactic, code))).first;
                } catch (const CubinError& error) {
                    engine::fail("launch plan: " + where + ": its machine code cannot be used: " + error.what());
                }
            }
            if (const std::string why = mismatch(tactic, task.arguments.size(), found->second, gpu.arch); !why.empty())
                engine::fail("launch plan: " + where + ": " + why);
            check_limits(tactic, gpu, where);
        }
    }
}

std::size_t tactic_count(const engine::PlanTask& task, const Gpu& gpu, const CublasLt* library) {
    const bool by_library = library != nullptr && task.linear && library->prepare(*task.linear) != nullptr;
    return task.tactics[gpu.target].size() + (by_library ? 1 : 0);
}

Modules::Modules(const Driver& driver, const Gpu& gpu, const engine::LaunchPlan& plan, std::span<const std::byte> code,
                 const TacticChoice& choice, const CublasLt* library)
    : Modules(driver) {
    std::map<Place, Function> loaded;
    for (std::size_t i = 0; i < plan.tasks.size(); ++i) {
        const engine::PlanTask& task = plan.tasks[i];
        if (choice[i] == task.tactics[gpu.target].size()) {
            std::unique_ptr<Call> call;
            if (library != nullptr && task.linear) call = library->prepare(*task.linear);
            if (call == nullptr)
                throw Error(ErrorKind::device, "no library computes '" + task.label + "' on GPU '" + gpu.name +
                                                   "'; run 'lightwam tune' again");
            calls_.push_back(std::move(call));
            continue;
        }
        const engine::Tactic& tactic = task.tactics[gpu.target][choice[i]];
        Function& function = loaded[{tactic.offset, tactic.bytes}];
        if (function == nullptr) {
            // Aligned: the driver takes the address of a whole ELF file.
            std::vector<std::uint64_t> aligned((tactic.bytes + 7) / 8);
            std::memcpy(aligned.data(), cubin_of(tactic, code).data(), tactic.bytes);
            ModuleHandle module = nullptr;
            const Result result = driver_.module_load_data(&module, aligned.data());
            if (result != Result::success) {
                int version = 0;
                driver_.driver_get_version(&version);
                throw DriverError(driver_, result,
                                  "loading the machine code of '" + task.label + "' for sm_" +
                                      std::to_string(gpu.arch) + " onto GPU '" + gpu.name + "' (driver for CUDA " +
                                      std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) +
                                      "; a newer driver may be needed)");
            }
            modules_.push_back(module);
            check(driver_, driver_.module_get_function(&function, module, tactic.entry.c_str()),
                  "looking up the kernel '" + tactic.entry + "'");
        }
        if (tactic.shared > kDefaultSharedMax)
            check(driver_,
                  driver_.func_set_attribute(function, FunctionAttribute::max_dynamic_shared_size_bytes,
                                             static_cast<int>(tactic.shared)),
                  "requesting shared memory for '" + task.label + "'");
        calls_.push_back(std::make_unique<KernelCall>(driver_, function, tactic));
    }
}

Modules::~Modules() {
    for (const ModuleHandle module : modules_) driver_.module_unload(module);
}

}  // namespace lightwam::cuda
