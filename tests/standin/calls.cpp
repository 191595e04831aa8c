// SPDX-License-Identifier: Apache-2.0
#include "calls.hpp"

namespace standin {

Result begin(const char* function) {
    State& on = state();
    const std::lock_guard<std::mutex> lock(on.mutex);
    ++on.calls[function];
    const auto fault = on.faults.find(function);
    if (fault != on.faults.end() && --fault->second.countdown == 0) {
        const Result result = fault->second.result;
        on.faults.erase(fault);
        if (lightwam::cuda::loses_device(result) && on.retained > 0) on.lost = result;
        return result;
    }
    return on.lost;
}

Result begin_current(const char* function) {
    if (const Result result = begin(function); result != Result::success) return result;
    return current_depth > 0 && state().retained > 0 ? Result::success : Result::invalid_context;
}

Result begin_outside_of_recordings(const char* function) {
    if (const Result result = begin_current(function); result != Result::success) return result;
    for (auto& [stream, owner] : state().streams) {
        if (stream->recording == nullptr) continue;
        stream->recording->spoiled = true;
        return Result::stream_capture_unsupported;
    }
    return Result::success;
}

}  // namespace standin
