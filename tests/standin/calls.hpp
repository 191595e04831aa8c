// SPDX-License-Identifier: Apache-2.0
// What every function of the stand-in driver begins with, and how its objects are kept.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "state.hpp"

#define EXPORT __attribute__((visibility("default")))
#define BEGIN(check, name)                                                            \
    do {                                                                              \
        if (const Result begun = check(name); begun != Result::success) return begun; \
    } while (false)

namespace standin {

// Contexts that this thread has pushed and not popped.
inline thread_local int current_depth = 0;

// Counts a call. A fault that the test set, or the loss of the device, ends it.
Result begin(const char* function);
// The same for what needs a current context.
Result begin_current(const char* function);
// Memory may not be allocated or freed, nor a stream waited for, while one records.
Result begin_outside_of_recordings(const char* function);

template <typename Objects, typename Handle>
auto* known(Objects& objects, Handle handle) {
    const auto found = objects.find(reinterpret_cast<typename Objects::key_type>(handle));
    return found == objects.end() ? nullptr : found->first;
}

template <typename Objects, typename Handle>
Result destroy(Objects& objects, Handle handle, const char* what) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    const auto found = objects.find(reinterpret_cast<typename Objects::key_type>(handle));
    if (found == objects.end()) {
        state().complain(std::string(what) + " was destroyed that does not live");
        return Result::invalid_value;
    }
    objects.erase(found);
    return Result::success;
}

template <typename Object>
Object* keep(std::map<Object*, std::unique_ptr<Object>>& objects, std::unique_ptr<Object> object) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    Object* const handle = object.get();
    objects.emplace(handle, std::move(object));
    return handle;
}

}  // namespace standin
