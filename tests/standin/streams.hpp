// SPDX-License-Identifier: Apache-2.0
// Streams, events and graphs of the stand-in driver: what waits for what, and in which order it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/driver.hpp"

namespace standin {

using lightwam::cuda::Result;
struct StreamObject;

// A piece of work.
using Work = std::function<Result()>;

// A piece of a graph. It runs after the pieces `before` it, which are earlier ones.
struct GraphNode {
    Work work;
    std::vector<std::size_t> before;
};

struct GraphObject {
    std::vector<GraphNode> nodes;
};

// What streams record together, from the first one's begin to its end.
struct Recording {
    GraphObject graph;
    StreamObject* origin = nullptr;
    bool spoiled = false;
    bool ended = false;
};

// A place in a stream, or in a recording.
struct Mark {
    StreamObject* stream = nullptr;
    bool reached = false;
    std::shared_ptr<Recording> recording;
    std::vector<std::size_t> before;  // pieces of the recording
};

struct EventObject {
    std::shared_ptr<Mark> mark;  // where it was recorded last; null: never
    bool timed = true;
    std::shared_ptr<double> seconds = std::make_shared<double>(0.0);  // when the stream came to it
};

// On a stream: work, or a mark to wait for.
struct Waiting {
    std::uint64_t number = 0;  // of all that was put onto streams
    Work work;
    std::shared_ptr<Mark> awaited;
};

struct StreamObject {
    std::deque<Waiting> waiting;
    bool running = false;  // somebody runs its work
    std::shared_ptr<Recording> recording;
    std::vector<std::size_t> last;  // of the recording: what the next piece comes after
};

// Puts work onto a stream, or into what the stream records. Called with the lock.
void put(StreamObject* stream, Work work);
// From now on the stream waits for the mark. Called with the lock.
Result wait_for(StreamObject* stream, const std::shared_ptr<Mark>& mark);
// Whether every piece of the graph comes before the end of the stream that began it.
bool all_joined(const GraphObject& graph, const std::vector<std::size_t>& last);

// Runs a graph, in an order that its pieces allow (standin_set_order).
Result run_graph(const GraphObject& graph);
// Runs what waits on a stream, and what it waits for on others. Called without the lock.
Result flush(StreamObject* stream);
Result flush_all();

}  // namespace standin
