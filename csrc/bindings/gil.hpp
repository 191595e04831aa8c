// SPDX-License-Identifier: Apache-2.0
// Python's lock (the GIL) given up while C++ works, in threads that Python may end meanwhile.
//
// When the interpreter ends, it does not wait for daemon threads. One that wants the lock back from then on is ended
// inside of the call that takes it: up to Python 3.13 by pthread_exit, which unwinds the stack and terminates the whole
// process at the first frame that is noexcept, as destructors are; from 3.14 on that call never returns. Here both are
// the same: the thread sleeps until the process ends, and what it refers to stays as it is.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <optional>
#include <string>

namespace lightwam::bindings {

// A call to Python that may not return. Between it and Python there is only C: whatever unwinds comes here first.
template <typename Call>
auto call_or_sleep(Call&& call) {
    struct Sleeper {
        bool returned = false;
        ~Sleeper() {
            while (!returned) ::pause();
        }
    } sleeper;
    auto result = call();
    sleeper.returned = true;
    return result;
}

// Calls function(message) from C++ that runs without the lock. Throws pybind11::error_already_set.
inline void warn(PyObject* function, const std::string& message) {
    const PyGILState_STATE state = call_or_sleep([] { return PyGILState_Ensure(); });
    std::optional<pybind11::error_already_set> error;
    PyObject* const text = PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace");
    PyObject* const result = call_or_sleep([&] { return PyObject_CallFunctionObjArgs(function, text, nullptr); });
    if (result == nullptr) error.emplace();
    Py_XDECREF(result);
    Py_XDECREF(text);
    PyGILState_Release(state);
    if (error) throw pybind11::error_already_set(*error);
}

// Gives the lock up for as long as it lives; in place of pybind11's gil_scoped_release.
class WithoutGil {
  public:
    WithoutGil() : thread_(PyEval_SaveThread()) {}
    ~WithoutGil() { take_back(); }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

    // Calls function(done, total) with the lock, from the same thread. Throws pybind11::error_already_set.
    void call(pybind11::handle function, int done, int total) {
        with_gil([&] {
            PyObject* const result = PyObject_CallFunction(function.ptr(), "ii", done, total);
            Py_XDECREF(result);
            return result != nullptr;
        });
    }

    // Runs the handlers of signals that have come, from the same thread. Throws pybind11::error_already_set.
    void check_signals() {
        with_gil([] { return PyErr_CheckSignals() == 0; });
    }

  private:
    // call() with the lock; it returns whether Python set no error.
    template <typename Call>
    void with_gil(Call&& call) {
        take_back();
        std::optional<pybind11::error_already_set> error;
        if (!call_or_sleep(call)) error.emplace();
        thread_ = PyEval_SaveThread();
        if (error) throw pybind11::error_already_set(*error);
    }

    void take_back() noexcept {
        call_or_sleep([this] {
            PyEval_RestoreThread(thread_);
            return true;
        });
    }

    PyThreadState* thread_;
};

}  // namespace lightwam::bindings
