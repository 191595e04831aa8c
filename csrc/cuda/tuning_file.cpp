// SPDX-License-Identifier: Apache-2.0
#include "cuda/tuning_file.hpp"

#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>

#include "engine/checksum.hpp"
#include "engine/json.hpp"

namespace lightwam::cuda {
namespace {

constexpr std::int64_t kFormatVersion = 1;
constexpr std::size_t kMaxBytes = std::size_t{4} << 20;

// FNV-1a, 64 bit, of numbers and texts.
class Digest {
  public:
    void add(std::uint64_t number) {
        for (int shift = 0; shift < 64; shift += 8) add_byte(static_cast<unsigned char>(number >> shift));
    }
    void add(std::string_view text) {
        add(text.size());
        for (const char character : text) add_byte(static_cast<unsigned char>(character));
    }
    std::string hexadecimal() const {
        std::array<char, 16> digits{};
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value_, 16).ptr;
        const std::string text(digits.data(), end);
        return std::string(digits.size() - text.size(), '0') + text;
    }

  private:
    void add_byte(unsigned char byte) { value_ = (value_ ^ byte) * 0x100000001B3; }
    std::uint64_t value_ = 0xCBF29CE484222325;
};

engine::JsonValue read_document(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text(kMaxBytes + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file.gcount() == 0) engine::fail("it is empty or cannot be read");
    if (!file.eof()) engine::fail("it is longer than " + std::to_string(kMaxBytes) + " bytes");
    text.resize(static_cast<std::size_t>(file.gcount()));
    try {
        return engine::parse_json(text);
    } catch (const engine::FileError& error) {
        engine::fail(std::string("it is not valid JSON: ") + error.what());
    }
}

// An entry's tactics, each within those of its task, of which the library's is the last.
TacticChoice read_tactics(const engine::ObjectReader& entry, const engine::LaunchPlan& plan, const Gpu& gpu,
                          bool with_library) {
    const std::vector<std::int64_t> indices = entry.integers("tactics");
    if (indices.size() != plan.tasks.size())
        entry.fail("'tactics' has " + std::to_string(indices.size()) + " numbers; expected one for each of " +
                   std::to_string(plan.tasks.size()) + " tasks");
    TacticChoice choice;
    for (std::size_t task = 0; task < indices.size(); ++task) {
        const auto count = static_cast<std::int64_t>(plan.tasks[task].tactics[gpu.target].size() +
                                                     (with_library && plan.tasks[task].linear ? 1 : 0));
        if (indices[task] < 0 || indices[task] >= count)
            entry.fail("tactic " + std::to_string(indices[task]) + " of task '" + plan.tasks[task].label +
                       "'; expected one of 0 to " + std::to_string(count - 1));
        choice.push_back(static_cast<std::size_t>(indices[task]));
    }
    return choice;
}

bool takes_library(const TacticChoice& choice, std::size_t task, const engine::LaunchPlan& plan, const Gpu& gpu) {
    return choice[task] == plan.tasks[task].tactics[gpu.target].size();
}

ChosenTactics read_entry(const engine::ObjectReader& entry, const engine::LaunchPlan& plan, const Gpu& gpu) {
    ChosenTactics chosen{{}, "tactics tuned on this GPU", "", ""};
    if (entry.find("library") != nullptr) chosen.library = entry.string("library");
    chosen.choice = read_tactics(entry, plan, gpu, !chosen.library.empty());
    bool taken = false;
    for (std::size_t task = 0; task < plan.tasks.size(); ++task)
        taken = taken || takes_library(chosen.choice, task, plan, gpu);
    if (!taken) chosen.library.clear();
    if (taken) chosen.why += ", with " + chosen.library;
    return chosen;
}

// The choice for `key` and its library; none when the file has no entry for it.
std::optional<ChosenTactics> read_choice(const std::string& path, const TuningKey& key, const engine::LaunchPlan& plan,
                                         const Gpu& gpu) {
    const engine::JsonValue json = read_document(path);
    const engine::ObjectReader document(json, "the document");
    if (document.string("format") != "lightwam-tuning") engine::fail("'format' is not 'lightwam-tuning'");
    document.integer("format_version", kFormatVersion, kFormatVersion);
    const engine::JsonValue::Array& entries = document.list("gpus");
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const engine::ObjectReader entry(entries[i], "entry " + std::to_string(i) + " of 'gpus'");
        const std::int64_t driver = entry.integer("driver", 0, std::numeric_limits<std::int32_t>::max());
        if (entry.string("gpu") == key.gpu && entry.string("target") == key.target &&
            entry.string("plan") == key.plan && driver == key.driver)
            return read_entry(entry, plan, gpu);
    }
    return std::nullopt;
}

// Sixteen hexadecimal digits of what decides how fast tactics are: the machine code for the GPU's target, the launches
// and how each tactic is launched. Weights are no part of it.
std::string plan_digest(const engine::LaunchPlan& plan, const Gpu& gpu, std::span<const std::byte> code) {
    Digest digest;
    digest.add(engine::crc32(code.data(), code.size()));
    for (const engine::PlanTask& task : plan.tasks) {
        digest.add(task.kernel);
        digest.add(task.linear ? 1U : 0U);
        for (const engine::Tactic& tactic : task.tactics[gpu.target]) {
            for (const std::uint64_t number : {tactic.offset, tactic.bytes}) digest.add(number);
            for (const std::uint32_t number : tactic.grid) digest.add(number);
            for (const std::uint32_t number : {tactic.threads, tactic.shared}) digest.add(number);
        }
    }
    for (const engine::PlanProgram* program : {&plan.set_instruction, &plan.act}) {
        for (const engine::Launch& launch : program->launches) digest.add(launch.task);
        for (const std::size_t number : {program->side.launches, program->side.join}) digest.add(number);
    }
    return digest.hexadecimal();
}

}  // namespace

TuningKey tuning_key(const Driver& driver, const engine::LaunchPlan& plan, const Gpu& gpu,
                     std::span<const std::byte> code) {
    TuningKey key{gpu.name, plan.targets[gpu.target].name, 0, plan_digest(plan, gpu, code)};
    check(driver, driver.driver_get_version(&key.driver), "reading the version of the GPU driver");
    return key;
}

std::unique_ptr<CublasLt> load_library(ChosenTactics& tactics, const engine::LaunchPlan& plan, const Gpu& gpu) {
    if (tactics.library.empty()) return nullptr;
    std::string why;
    std::unique_ptr<CublasLt> library = CublasLt::load(why);
    if (library != nullptr && library->version() != tactics.library) why = "this is " + library->version();
    for (std::size_t task = 0; task < plan.tasks.size() && why.empty(); ++task)
        if (takes_library(tactics.choice, task, plan, gpu) &&
            tactic_count(plan.tasks[task], gpu, library.get()) <= tactics.choice[task])
            why = "it does not compute '" + plan.tasks[task].label + "'";
    if (why.empty()) return library;
    for (std::size_t task = 0; task < plan.tasks.size(); ++task)
        if (takes_library(tactics.choice, task, plan, gpu)) tactics.choice[task] = 0;
    tactics.warning = "tactics were timed with " + tactics.library + ", but " + why +
                      ": default tactics run in its place; run 'lightwam tune' again";
    tactics.why = "tactics tuned on this GPU, but for those of " + tactics.library;
    tactics.library.clear();
    return nullptr;
}

ChosenTactics choose_tactics(const std::string& engine_path, const TuningKey& key, const engine::LaunchPlan& plan,
                             const Gpu& gpu) {
    const std::string path = engine_path + ".tuning.json";
    const std::string advice = "; run 'lightwam tune' for this GPU";
    ChosenTactics chosen{TacticChoice(plan.tasks.size(), 0), "default tactics (not tuned" + advice + ")", "", ""};
    std::error_code failure;
    if (!std::filesystem::exists(path, failure)) return chosen;
    try {
        const engine::ErrorReporter reporter(path, "tuning file");
        std::optional<ChosenTactics> found = reporter([&] { return read_choice(path, key, plan, gpu); });
        if (found) return *std::move(found);
        chosen.warning = "tuning file '" + path + "' has no entry for GPU '" + key.gpu + "' (" + key.target +
                         "), its driver (CUDA " + std::to_string(key.driver / 1000) + "." +
                         std::to_string(key.driver % 1000 / 10) + ") and this engine's machine code";
    } catch (const Error& error) {
        chosen.warning = error.what();
    }
    chosen.why = "default tactics (the tuning file does not fit" + advice + ")";
    chosen.warning += ": the default tactics run" + advice;
    return chosen;
}

}  // namespace lightwam::cuda
