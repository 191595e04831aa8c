// SPDX-License-Identifier: Apache-2.0
#include "cuda/tuner.hpp"

#include <algorithm>
#include <cmath>
#include <deque>

namespace lightwam::cuda {
namespace {

constexpr int kWarmUp = 3;
// What is less is noise.
constexpr double kFasterBy = 0.02;
// The least cosine of the chosen tactics' actions with the defaults': sums in another order, a rounding at a tie.
constexpr double kLeastCosine = 0.99;
// Of the cache; it need not replace what was used longest ago.
constexpr std::size_t kFlushCaches = 4;
constexpr std::size_t kLeastFlushBytes = std::size_t{1} << 20;

double median(std::vector<double> samples) {
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
    std::nth_element(samples.begin(), middle, samples.end());
    return *middle;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    double ab = 0.0;
    double aa = 0.0;
    double bb = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
        bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    if (aa == 0.0 && bb == 0.0) return 1.0;
    const double value = ab / std::sqrt(aa * bb);
    return std::isfinite(value) ? value : -1.0;
}

// More bytes than the GPU's cache holds, written before each replay: so what the replay before left there is gone, the
// weights of a small policy too. It also keeps the GPU busy until the replay has been put onto the stream.
class CacheFlush {
  public:
    explicit CacheFlush(const TuningGround& ground)
        : ground_(ground),
          block_(ground.driver, std::max(kFlushCaches * ground.gpu.cache_bytes, kLeastFlushBytes),
                 "filling the cache") {}
    void operator()() const {
        check(ground_.driver,
              ground_.driver.memset_d8_async(block_.address(), 0, block_.bytes(), ground_.stream.handle()),
              "filling the GPU's cache");
    }

  private:
    const TuningGround& ground_;
    DeviceBlock block_;
};

// A program's graph and the times of its replays.
class TimedProgram {
  public:
    TimedProgram(const TuningGround& ground, const std::vector<BoundLaunch>& launches, const engine::PlanSide& side,
                 bool each_launch) {
        if (launches.empty()) return;
        // A library loads its code with the first call, which may fail while a stream records.
        if (ground.library != nullptr) launch_all(ground.driver, ground.stream.handle(), launches);
        std::vector<TimedGraph::Piece> pieces;
        if (each_launch)
            for (const BoundLaunch& launch : launches)
                pieces.push_back([&] { launch_all(ground.driver, ground.stream.handle(), {&launch, 1}); });
        else
            pieces.push_back([&] { ground.put(launches, side); });
        samples_.resize(pieces.size());
        graph_ = TimedGraph(ground.driver, ground.stream.handle(), pieces);
    }
    void launch(const TuningGround& ground) const {
        if (!graph_.empty()) graph_.launch(ground.stream.handle());
    }
    // Of the replay that the stream was waited for.
    void read() {
        if (graph_.empty()) return;
        const std::vector<double> seconds = graph_.seconds();
        for (std::size_t i = 0; i < seconds.size(); ++i) samples_[i].push_back(seconds[i]);
    }
    // Of a launch, or of the whole program where the clock is not read between launches.
    double seconds(std::size_t launch) const { return median(samples_[launch]); }

  private:
    TimedGraph graph_;
    std::vector<std::vector<double>> samples_;  // [piece][replay]
};

// Both programs with one choice of tactics.
struct Contender {
    Contender(const TuningGround& ground, const TacticChoice& tactics, bool each_launch)
        : modules(ground.driver, ground.gpu, ground.plan, ground.code, tactics, ground.library),
          text(ground, ground.text(modules), ground.plan.set_instruction.side, each_launch),
          act(ground, ground.act(modules), ground.plan.act.side, each_launch) {}

    Modules modules;
    TimedProgram text;
    TimedProgram act;
};

// Contenders that run in turns, so that a clock that changes on the way is the same for all.
class Contest {
  public:
    Contest(const TuningGround& ground, const CacheFlush& flush, const std::vector<TacticChoice>& choices,
            bool each_launch)
        : ground_(ground), flush_(flush) {
        for (const TacticChoice& choice : choices) contenders_.emplace_back(ground, choice, each_launch);
    }
    // Nothing may still run when graphs and modules go.
    ~Contest() { ground_.driver.stream_synchronize(ground_.stream.handle()); }
    Contest(const Contest&) = delete;
    Contest& operator=(const Contest&) = delete;

    void run(int repeats, const std::function<void()>& step) {
        for (int round = -kWarmUp; round < repeats; ++round)
            for (Contender& contender : contenders_) {
                for (const TimedProgram* program : {&contender.text, &contender.act}) {
                    flush_();
                    program->launch(ground_);
                }
                ground_.stream.synchronize("timing tactics on the GPU");
                if (round >= 0) {
                    contender.text.read();
                    contender.act.read();
                }
                step();
            }
    }
    std::vector<float> actions(std::size_t contender) const {
        contenders_[contender].act.launch(ground_);
        return ground_.actions();
    }
    const Contender& operator[](std::size_t i) const { return contenders_[i]; }

  private:
    const TuningGround& ground_;
    const CacheFlush& flush_;
    std::deque<Contender> contenders_;  // stay where they are
};

// The i-th choice has tactic i of every task that has so many, else the default.
std::vector<TacticChoice> every_tactic(const TuningGround& ground) {
    std::vector<std::size_t> counts;
    for (const engine::PlanTask& task : ground.plan.tasks)
        counts.push_back(tactic_count(task, ground.gpu, ground.library));
    const std::size_t most = counts.empty() ? 1 : *std::max_element(counts.begin(), counts.end());
    std::vector<TacticChoice> choices(most, TacticChoice(counts.size(), 0));
    for (std::size_t tactic = 0; tactic < most; ++tactic)
        for (std::size_t task = 0; task < counts.size(); ++task)
            if (tactic < counts[task]) choices[tactic][task] = tactic;
    return choices;
}

// Adds the times of a program's launches to their tasks, by tactic.
void add_up(const engine::PlanProgram& program, TimedProgram Contender::* timed, const Contest& contest,
            std::vector<TaskTiming>& tasks) {
    for (std::size_t i = 0; i < program.launches.size(); ++i) {
        TaskTiming& task = tasks[program.launches[i].task];
        ++task.launches;
        for (std::size_t tactic = 0; tactic < task.seconds.size(); ++tactic)
            task.seconds[tactic] += (contest[tactic].*timed).seconds(i);
    }
}

std::vector<TaskTiming> task_timings(const TuningGround& ground, const Contest& contest) {
    std::vector<TaskTiming> tasks;
    for (const engine::PlanTask& task : ground.plan.tasks) {
        TaskTiming timing{task.label, task.kernel, 0, {}, {}, 0};
        for (const engine::Tactic& tactic : task.tactics[ground.gpu.target]) timing.tactics.push_back(tactic.note);
        if (tactic_count(task, ground.gpu, ground.library) > timing.tactics.size())
            timing.tactics.push_back(ground.library->version());
        timing.seconds.resize(timing.tactics.size(), 0.0);
        tasks.push_back(std::move(timing));
    }
    add_up(ground.plan.set_instruction, &Contender::text, contest, tasks);
    add_up(ground.plan.act, &Contender::act, contest, tasks);
    for (TaskTiming& task : tasks)
        for (std::size_t tactic = 1; tactic < task.seconds.size(); ++tactic)
            if (task.seconds[tactic] < (1.0 - kFasterBy) * task.seconds[task.chosen]) task.chosen = tactic;
    return tasks;
}

// Chosen tactics against the defaults: the times of a whole chunk, and what they compute.
void compare(const TuningGround& ground, Contest& contest, int repeats, const std::function<void()>& step,
             Tuning& tuning) {
    contest.run(repeats, step);
    tuning.default_seconds = contest[0].act.seconds(0);
    tuning.tuned_seconds = contest[1].act.seconds(0);
    const std::vector<float> expected = contest.actions(0);
    tuning.cosine = cosine(expected, contest.actions(1));
    if (tuning.cosine < kLeastCosine)
        throw Error(ErrorKind::device, "the fastest tactics on GPU '" + ground.gpu.name +
                                           "' compute other actions than the default ones: cosine " +
                                           std::to_string(tuning.cosine) + ", expected at least " +
                                           std::to_string(kLeastCosine) + "; keep the default ones");
    if (tuning.tuned_seconds < tuning.default_seconds) return;
    tuning.tuned_seconds = tuning.default_seconds;
    for (TaskTiming& task : tuning.tasks) task.chosen = 0;
}

}  // namespace

Tuning tune(const TuningGround& ground, const TuningKey& key, int repeats, const TuningProgress& progress) {
    const std::vector<TacticChoice> choices = every_tactic(ground);
    const int rounds = repeats + kWarmUp;
    const int total = rounds * (static_cast<int>(choices.size()) + 2);
    int done = 0;
    const std::function<void()> step = [&] { progress(++done, total); };

    const CacheFlush flush(ground);
    Tuning tuning{key.gpu, key.target, key.driver, key.plan, {}, 0.0, 0.0, 0.0, "", ground.why_not};
    if (ground.library != nullptr) tuning.library = ground.library->version();
    {
        Contest contest(ground, flush, choices, true);
        contest.run(repeats, step);
        tuning.tasks = task_timings(ground, contest);
    }
    TacticChoice chosen;
    for (const TaskTiming& task : tuning.tasks) chosen.push_back(task.chosen);
    Contest whole(ground, flush, {choices[0], chosen}, false);
    compare(ground, whole, repeats, step, tuning);
    return tuning;
}

}  // namespace lightwam::cuda
