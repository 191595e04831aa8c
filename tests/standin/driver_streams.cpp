// SPDX-License-Identifier: Apache-2.0
// The driver's functions for streams, events and graphs.
#include "calls.hpp"

using namespace standin;

namespace {

constexpr auto kUnmatched = static_cast<Result>(902);  // a recording that another stream began
constexpr auto kUnjoined = static_cast<Result>(904);   // a stream whose work nothing waits for
constexpr int kLastPriority = 0;
constexpr int kFirstPriority = -5;

constexpr double kTick = 1e-6;

// Nothing depends on real time: from one reading to the next one tick goes by, and what a test adds.
void read_clock(double& seconds) { seconds = state().clock.fetch_add(kTick) + kTick; }

}  // namespace

extern "C" {

EXPORT Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    BEGIN(begin_current, "cuCtxGetStreamPriorityRange");
    *least = kLastPriority;
    *greatest = kFirstPriority;
    return Result::success;
}
EXPORT Result cuStreamCreateWithPriority(StreamObject** stream, unsigned, int priority) {
    BEGIN(begin_current, "cuStreamCreateWithPriority");
    if (priority > kLastPriority || priority < kFirstPriority) state().complain("a stream has no such priority");
    *stream = keep(state().streams, std::make_unique<StreamObject>());
    return Result::success;
}
EXPORT Result cuStreamDestroy_v2(StreamObject* stream) {
    BEGIN(begin_current, "cuStreamDestroy_v2");
    if (known(state().streams, stream) != nullptr && !stream->waiting.empty())
        state().complain("a stream was destroyed with work on it");
    return destroy(state().streams, stream, "a stream");
}
EXPORT Result cuStreamSynchronize(StreamObject* stream) {
    BEGIN(begin_outside_of_recordings, "cuStreamSynchronize");
    return flush(stream);
}
EXPORT Result cuStreamWaitEvent(StreamObject* stream, EventObject* event, unsigned) {
    BEGIN(begin_current, "cuStreamWaitEvent");
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (known(state().streams, stream) == nullptr || known(state().events, event) == nullptr)
        return Result::invalid_value;
    return wait_for(stream, event->mark);
}
EXPORT Result cuStreamBeginCapture_v2(StreamObject* stream, int) {
    BEGIN(begin_current, "cuStreamBeginCapture_v2");
    if (stream->recording != nullptr) return Result::stream_capture_unsupported;
    stream->recording = std::make_shared<Recording>();
    stream->recording->origin = stream;
    stream->last.clear();
    return Result::success;
}
EXPORT Result cuStreamEndCapture(StreamObject* stream, GraphObject** graph) {
    *graph = nullptr;
    const Result begun = begin_current("cuStreamEndCapture");
    const std::shared_ptr<Recording> recorded = stream->recording;
    if (recorded == nullptr) return begun != Result::success ? begun : Result::invalid_value;
    if (recorded->origin != stream) return kUnmatched;
    recorded->ended = true;
    for (auto& [each, owner] : state().streams)
        if (each->recording == recorded) each->recording = nullptr;
    if (begun != Result::success) return begun;
    if (recorded->spoiled) return Result::stream_capture_invalidated;
    if (!all_joined(recorded->graph, stream->last)) return kUnjoined;
    *graph = keep(state().graphs, std::make_unique<GraphObject>(recorded->graph));
    return Result::success;
}
EXPORT Result cuGraphInstantiateWithFlags(GraphObject** exec, GraphObject* graph, unsigned long long) {
    BEGIN(begin_outside_of_recordings, "cuGraphInstantiateWithFlags");
    if (known(state().graphs, graph) == nullptr) return Result::invalid_value;
    *exec = keep(state().execs, std::make_unique<GraphObject>(*graph));
    return Result::success;
}
EXPORT Result cuGraphLaunch(GraphObject* exec, StreamObject* stream) {
    BEGIN(begin_current, "cuGraphLaunch");
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (known(state().execs, exec) == nullptr) return Result::invalid_value;
    put(stream, [graph = *exec] { return run_graph(graph); });
    return Result::success;
}
EXPORT Result cuGraphExecDestroy(GraphObject* exec) {
    BEGIN(begin_current, "cuGraphExecDestroy");
    return destroy(state().execs, exec, "a graph");
}
EXPORT Result cuGraphDestroy(GraphObject* graph) {
    BEGIN(begin_current, "cuGraphDestroy");
    return destroy(state().graphs, graph, "a recorded graph");
}
EXPORT Result cuEventCreate(EventObject** event, unsigned flags) {
    BEGIN(begin_current, "cuEventCreate");
    *event = keep(state().events, std::make_unique<EventObject>());
    (*event)->timed = (flags & lightwam::cuda::kEventDisableTiming) == 0;
    return Result::success;
}
EXPORT Result cuEventDestroy_v2(EventObject* event) {
    BEGIN(begin_current, "cuEventDestroy_v2");
    return destroy(state().events, event, "an event");
}
EXPORT Result cuEventRecord(EventObject* event, StreamObject* stream) {
    BEGIN(begin_current, "cuEventRecord");
    const std::lock_guard<std::mutex> lock(state().mutex);
    auto mark = std::make_shared<Mark>();
    mark->stream = stream;
    event->mark = mark;
    if (stream->recording != nullptr) {
        mark->recording = stream->recording;
        mark->before = stream->last;
        return Result::success;
    }
    put(stream, [mark, seconds = event->seconds] {
        read_clock(*seconds);
        const std::lock_guard<std::mutex> reached(state().mutex);
        mark->reached = true;
        return Result::success;
    });
    return Result::success;
}
// While a stream records, only an external event becomes a reading of the clock.
EXPORT Result cuEventRecordWithFlags(EventObject* event, StreamObject* stream, unsigned flags) {
    BEGIN(begin_current, "cuEventRecordWithFlags");
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (known(state().events, event) == nullptr || stream->recording == nullptr ||
        flags != lightwam::cuda::kEventRecordExternal)
        return Result::invalid_value;
    put(stream, [seconds = event->seconds] {
        read_clock(*seconds);
        return Result::success;
    });
    return Result::success;
}
EXPORT Result cuEventElapsedTime(float* milliseconds, EventObject* start, EventObject* end) {
    BEGIN(begin_current, "cuEventElapsedTime");
    if (!start->timed || !end->timed || *start->seconds == 0.0 || *end->seconds == 0.0) return Result::invalid_value;
    *milliseconds = static_cast<float>(1e3 * (*end->seconds - *start->seconds));
    return Result::success;
}
EXPORT Result cuEventSynchronize(EventObject* event) {
    BEGIN(begin_outside_of_recordings, "cuEventSynchronize");
    return event->mark == nullptr ? Result::success : flush(event->mark->stream);
}

}  // extern "C"
