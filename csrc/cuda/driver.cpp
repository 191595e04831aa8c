// SPDX-License-Identifier: Apache-2.0
#include "cuda/driver.hpp"

#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <mutex>

namespace lightwam::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr const char* kInherited = "CUDA was started before this process was forked, and does not outlive a fork";
constexpr const char* kMaybeForked = "; if this process was forked after another library had started CUDA";
constexpr const char* kForkRemedy = ": start processes with multiprocessing's 'spawn' method, or use device='cpu'";

// What the whole process shares.
struct Process {
    enum class State { absent, started, inherited } state = State::absent;
    std::mutex mutex;
    Driver driver;
};
constinit Process process{};

[[noreturn]] void fail(const std::string& why) { throw Error(ErrorKind::device, why); }

// Looks a function up; a driver that lacks one is too old.
template <typename Pointer>
void look_up(void* library, Pointer& function, const char* name) {
    void* const address = ::dlsym(library, name);
    if (address == nullptr)
        fail(std::string("the GPU driver (") + kLibrary + ") has no function " + name +
             "; install a newer one, or use device='cpu'");
    static_assert(sizeof(Pointer) == sizeof(address));
    std::memcpy(&function, &address, sizeof(address));
}

Driver look_up_all(void* library) {
    Driver driver{};
#define LIGHTWAM_DRIVER_FUNCTION(name, symbol, ...) look_up(library, driver.name, symbol);
#include "cuda/driver_functions.def"
    return driver;
}

}  // namespace

std::string Driver::text(Result result) const {
    const char* name = nullptr;
    const char* explanation = nullptr;
    if (get_error_name(result, &name) != Result::success || name == nullptr)
        return "error " + std::to_string(static_cast<int>(result));
    if (get_error_string(result, &explanation) != Result::success || explanation == nullptr) return name;
    return std::string(name) + " (" + explanation + ")";
}

DriverError::DriverError(const Driver& driver, Result result, const std::string& what)
    : Error(ErrorKind::device, what + ": the GPU driver says " + driver.text(result)), result_(result) {}

const Driver& load_driver() {
    using State = Process::State;
    const std::lock_guard<std::mutex> lock(process.mutex);
    Driver& driver = process.driver;
    if (process.state == State::inherited) fail(std::string(kInherited) + kForkRemedy);
    if (process.state == State::started) return driver;
    void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* const why = ::dlerror();
        fail(std::string("no GPU driver: ") + (why != nullptr ? why : kLibrary) +
             "; install the driver of an NVIDIA GPU, or use device='cpu'");
    }
    driver = look_up_all(library);
    process.state = State::started;  // before it is, so that a fork meanwhile inherits it
    if (const Result result = driver.init(0); result != Result::success) {
        process.state = State::absent;
        const std::string why = "the GPU driver does not start: " + driver.text(result);
        if (result == Result::not_initialized) fail(why + kMaybeForked + kForkRemedy);
        fail(why +
             (result == Result::no_device ? "; there is no GPU that this process may use"
                                          : "; restart the machine or install the driver again") +
             ", or use device='cpu'");
    }
    return driver;
}

void forget_driver() noexcept {
    std::construct_at(&process.mutex);
    if (process.state == Process::State::started) process.state = Process::State::inherited;
}

}  // namespace lightwam::cuda
