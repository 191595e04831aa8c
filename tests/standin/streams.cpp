// SPDX-License-Identifier: Apache-2.0
#include "streams.hpp"

#include <algorithm>
#include <random>

#include "state.hpp"

namespace standin {
namespace {

constexpr auto kIsolation = static_cast<Result>(905);  // a recording that waits for what is not in it
constexpr auto kMerge = static_cast<Result>(903);      // two recordings that would become one

// Chooses among what is ready, oldest first, as standin_set_order says.
class Choice {
  public:
    Choice() : order_(state().order), random_(order_) {}
    std::size_t operator()(std::size_t count) {
        if (order_ == STANDIN_OLDEST) return 0;
        return order_ == STANDIN_NEWEST ? count - 1 : random_() % count;
    }

  private:
    unsigned order_;
    std::mt19937 random_;
};

// The stream and those whose marks it waits for, directly or not; none if somebody runs one of them.
std::vector<StreamObject*> involved(StreamObject* stream) {
    std::vector<StreamObject*> found = {stream};
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i]->running) return {};
        for (const Waiting& each : found[i]->waiting) {
            if (each.awaited == nullptr || each.awaited->reached) continue;
            StreamObject* const other = each.awaited->stream;
            if (state().streams.contains(other) && std::find(found.begin(), found.end(), other) == found.end())
                found.push_back(other);
        }
    }
    return found;
}

// The streams whose next piece may run, by the age of the piece.
std::vector<StreamObject*> ready(const std::vector<StreamObject*>& streams) {
    std::vector<StreamObject*> found;
    for (StreamObject* const stream : streams)
        if (!stream->waiting.empty() &&
            (stream->waiting.front().awaited == nullptr || stream->waiting.front().awaited->reached))
            found.push_back(stream);
    std::sort(found.begin(), found.end(), [](const StreamObject* a, const StreamObject* b) {
        return a->waiting.front().number < b->waiting.front().number;
    });
    return found;
}

Result lose(Result result) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    state().lost = result;
    return result;
}

Result run_all(StreamObject* stream, const std::vector<StreamObject*>& streams) {
    Choice choose;
    while (true) {
        Work work;
        {
            const std::lock_guard<std::mutex> lock(state().mutex);
            if (stream->waiting.empty()) return Result::success;
            const std::vector<StreamObject*> able = ready(streams);
            if (able.empty()) {
                state().complain("a stream waits for what never comes");
                return Result::invalid_value;
            }
            std::deque<Waiting>& next = able[choose(able.size())]->waiting;
            work = std::move(next.front().work);
            next.pop_front();
        }
        if (!work) continue;
        if (const Result result = work(); result != Result::success) return lose(result);
    }
}

}  // namespace

void put(StreamObject* stream, Work work) {
    if (stream->recording == nullptr) {
        stream->waiting.push_back({++state().put_count, std::move(work), nullptr});
        return;
    }
    std::vector<GraphNode>& nodes = stream->recording->graph.nodes;
    nodes.push_back({std::move(work), stream->last});
    stream->last = {nodes.size() - 1};
}

Result wait_for(StreamObject* stream, const std::shared_ptr<Mark>& mark) {
    if (mark == nullptr) return Result::success;
    const std::shared_ptr<Recording>& recording = mark->recording;
    if (recording != nullptr && recording->ended) return Result::invalid_value;
    if (recording == nullptr && stream->recording == nullptr) {
        stream->waiting.push_back({++state().put_count, nullptr, mark});
        return Result::success;
    }
    if (recording == nullptr || (stream->recording != nullptr && stream->recording != recording)) {
        stream->recording->spoiled = true;
        return recording == nullptr ? kIsolation : kMerge;
    }
    if (stream->recording == nullptr) stream->last.clear();
    stream->recording = recording;
    stream->last.insert(stream->last.end(), mark->before.begin(), mark->before.end());
    return Result::success;
}

bool all_joined(const GraphObject& graph, const std::vector<std::size_t>& last) {
    std::vector<bool> before(graph.nodes.size(), false);
    for (const std::size_t node : last) before[node] = true;
    for (std::size_t i = graph.nodes.size(); i-- > 0;)
        if (before[i])
            for (const std::size_t earlier : graph.nodes[i].before) before[earlier] = true;
    return std::find(before.begin(), before.end(), false) == before.end();
}

Result run_graph(const GraphObject& graph) {
    Choice choose;
    std::vector<bool> done(graph.nodes.size(), false);
    for (std::size_t count = 0; count < graph.nodes.size(); ++count) {
        std::vector<std::size_t> able;
        for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
            const std::vector<std::size_t>& before = graph.nodes[i].before;
            if (!done[i] && std::all_of(before.begin(), before.end(), [&](std::size_t each) { return done[each]; }))
                able.push_back(i);
        }
        const std::size_t chosen = able[choose(able.size())];
        if (const Result result = graph.nodes[chosen].work(); result != Result::success) return result;
        done[chosen] = true;
    }
    return Result::success;
}

Result flush(StreamObject* stream) {
    State& on = state();
    std::vector<StreamObject*> streams;
    {
        const std::lock_guard<std::mutex> lock(on.mutex);
        streams = involved(stream);
        for (StreamObject* const each : streams) each->running = true;
    }
    if (streams.empty()) return Result::success;
    const Result result = run_all(stream, streams);
    const std::lock_guard<std::mutex> lock(on.mutex);
    for (StreamObject* const each : streams) each->running = false;
    on.check_guards();
    return result;
}

Result flush_all() {
    State& on = state();
    std::vector<StreamObject*> streams;
    {
        const std::lock_guard<std::mutex> lock(on.mutex);
        for (const auto& [stream, owner] : on.streams) streams.push_back(stream);
    }
    for (StreamObject* const stream : streams)
        if (const Result result = flush(stream); result != Result::success) return result;
    return Result::success;
}

}  // namespace standin
