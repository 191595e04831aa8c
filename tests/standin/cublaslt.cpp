// SPDX-License-Identifier: Apache-2.0
#include "cublaslt.h"

#include <dlfcn.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace {

constexpr int kInvalidValue = 7;
constexpr int kExecutionFailed = 13;
constexpr int kNotSupported = 15;
enum Type : int { kF32 = 0, kF16 = 2, kBf16 = 14 };

struct Layout {
    int type = kF32;
    std::uint64_t rows = 0;
    std::uint64_t columns = 0;
    std::int64_t ld = 0;
};

struct Description {
    std::int32_t transpose_a = 0;
    std::uint32_t epilogue = 1;
    std::uint64_t bias = 0;
    std::int32_t bias_type = -1;
};

struct Preference {
    std::map<int, std::uint64_t> numbers;
};

struct Algorithm {
    std::uint64_t algorithm[8];
    std::size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

struct Library {
    std::mutex mutex;
    std::map<std::string, std::uint64_t> calls;
    std::map<std::string, std::pair<int, int>> faults;  // calls left, status
    std::uint64_t alive = 0;
    std::uint64_t version = 130'100;
    std::deque<std::function<void()>> work;  // kept: a graph may run it again
};

Library& library() {
    static Library instance;
    return instance;
}

// Counts the call; the status of a fault, or 0.
int begin(const char* function) {
    Library& on = library();
    const std::lock_guard<std::mutex> lock(on.mutex);
    ++on.calls[function];
    const auto fault = on.faults.find(function);
    if (fault == on.faults.end() || --fault->second.first > 0) return 0;
    const int status = fault->second.second;
    on.faults.erase(fault);
    return status;
}

template <typename Object>
int make(const char* function, void** handle, const Object& object) {
    if (const int status = begin(function); status != 0) return status;
    *handle = new Object(object);
    ++library().alive;
    return 0;
}

template <typename Object>
int destroy(const char* function, void* handle) {
    begin(function);
    delete static_cast<Object*>(handle);
    --library().alive;
    return 0;
}

float widen(std::uint16_t bits, int type) {
    if (type == kBf16) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float value = 0.0F;
        std::memcpy(&value, &wide, sizeof(value));
        return value;
    }
    const int exponent = bits >> 10 & 31;
    const float fraction = static_cast<float>(bits & 1023);
    const float magnitude = exponent == 0    ? std::ldexp(fraction, -24)
                            : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                             : std::ldexp(1024.0F + fraction, exponent - 25);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

float load(const void* data, int type, std::size_t at) {
    if (type == kF32) return static_cast<const float*>(data)[at];
    return widen(static_cast<const std::uint16_t*>(data)[at], type);
}

// To nearest, ties to even.
std::uint16_t narrow(float value, int type) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    if (type == kBf16) return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const float magnitude = std::fabs(value);
    if (!(magnitude < 65520.0F)) return static_cast<std::uint16_t>(sign | (std::isnan(value) ? 0x7E00 : 0x7C00));
    if (magnitude == 0.0F) return sign;
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int shift = std::max(exponent - 11, -24);  // of the last bit
    const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, -shift)));
    // Steps of 2^shift: 1024 to 2047 of them in a normal number; 2048 carry into the next exponent.
    const std::uint32_t code = shift == -24 ? steps : (static_cast<std::uint32_t>(shift + 24) << 10) + steps;
    return static_cast<std::uint16_t>(sign | code);
}

void store(void* data, int type, std::size_t at, float value) {
    if (type == kF32)
        static_cast<float*>(data)[at] = value;
    else
        static_cast<std::uint16_t*>(data)[at] = narrow(value, type);
}

struct Product {
    Description description;
    Layout a, b, c, d;
    const void* a_data = nullptr;
    const void* b_data = nullptr;
    const void* c_data = nullptr;
    void* d_data = nullptr;
    float beta = 0.0F;
};

// D = act(Aᵀ B + bias) + beta C, by columns.
void compute(const Product& on) {
    const auto* const bias = reinterpret_cast<const float*>(on.description.bias);
    for (std::uint64_t column = 0; column < on.d.columns; ++column)
        for (std::uint64_t row = 0; row < on.d.rows; ++row) {
            double sum = 0.0;
            for (std::uint64_t k = 0; k < on.a.rows; ++k)
                sum += static_cast<double>(load(on.a_data, on.a.type, row * static_cast<std::uint64_t>(on.a.ld) + k)) *
                       load(on.b_data, on.b.type, column * static_cast<std::uint64_t>(on.b.ld) + k);
            if ((on.description.epilogue & 4) != 0) sum += bias[row];
            if ((on.description.epilogue & 32) != 0)
                sum *= 0.5 * (1.0 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
            const std::size_t at = column * static_cast<std::uint64_t>(on.d.ld) + row;
            if (on.beta != 0.0F) sum += static_cast<double>(on.beta) * load(on.c_data, on.c.type, at);
            store(on.d_data, on.d.type, at, static_cast<float>(sum));
        }
}

void run(void* work) { (*static_cast<std::function<void()>*>(work))(); }

// Whether the real library might: types, sizes, a bias of f32 only where D is.
bool fits(const Description& description, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    const bool types = a.type == b.type && c.type == d.type && (d.type == a.type || d.type == kF32);
    const bool sizes = description.transpose_a == 1 && a.rows == b.rows && a.columns == d.rows &&
                       b.columns == d.columns && c.rows == d.rows && c.columns == d.columns;
    const bool bias = (description.epilogue & 4) == 0 || (description.bias != 0 && description.bias_type == kF32);
    return types && sizes && bias;
}

}  // namespace

extern "C" {

STANDIN_API void standin_cublaslt_fail(const char* function, int nth, int status) {
    const std::lock_guard<std::mutex> lock(library().mutex);
    library().faults.erase(function);
    if (status != 0) library().faults[function] = {nth, status};
}
STANDIN_API uint64_t standin_cublaslt_calls(const char* function) { return library().calls[function]; }
STANDIN_API uint64_t standin_cublaslt_alive(void) { return library().alive; }
STANDIN_API void standin_cublaslt_set_version(uint64_t version) { library().version = version; }

STANDIN_API int cublasLtCreate(void** handle) { return make("cublasLtCreate", handle, 0); }
STANDIN_API int cublasLtDestroy(void* handle) { return destroy<int>("cublasLtDestroy", handle); }
STANDIN_API std::size_t cublasLtGetVersion(void) { return library().version; }
STANDIN_API const char* cublasLtGetStatusName(int status) {
    return status == kExecutionFailed ? "CUBLAS_STATUS_EXECUTION_FAILED" : "CUBLAS_STATUS_NOT_SUPPORTED";
}
STANDIN_API int cublasLtMatmulDescCreate(void** handle, int compute_type, int scale_type) {
    constexpr int kComputeF32 = 68;
    if (compute_type != kComputeF32 || scale_type != kF32) return kInvalidValue;
    return make("cublasLtMatmulDescCreate", handle, Description());
}
STANDIN_API int cublasLtMatmulDescDestroy(void* handle) {
    return destroy<Description>("cublasLtMatmulDescDestroy", handle);
}
STANDIN_API int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, std::size_t bytes) {
    if (const int status = begin("cublasLtMatmulDescSetAttribute"); status != 0) return status;
    auto& on = *static_cast<Description*>(handle);
    const auto take = [&](auto& member) {
        if (bytes != sizeof(member)) return kInvalidValue;
        std::memcpy(&member, value, bytes);
        return 0;
    };
    if (attribute == 3) return take(on.transpose_a);
    if (attribute == 7) return take(on.epilogue);
    if (attribute == 8) return take(on.bias);
    return attribute == 26 ? take(on.bias_type) : kInvalidValue;
}
STANDIN_API int cublasLtMatrixLayoutCreate(void** handle, int type, std::uint64_t rows, std::uint64_t columns,
                                           std::int64_t ld) {
    return make("cublasLtMatrixLayoutCreate", handle, Layout{type, rows, columns, ld});
}
STANDIN_API int cublasLtMatrixLayoutDestroy(void* handle) {
    return destroy<Layout>("cublasLtMatrixLayoutDestroy", handle);
}
STANDIN_API int cublasLtMatmulPreferenceCreate(void** handle) {
    return make("cublasLtMatmulPreferenceCreate", handle, Preference());
}
STANDIN_API int cublasLtMatmulPreferenceDestroy(void* handle) {
    return destroy<Preference>("cublasLtMatmulPreferenceDestroy", handle);
}
STANDIN_API int cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value,
                                                     std::size_t bytes) {
    if (const int status = begin("cublasLtMatmulPreferenceSetAttribute"); status != 0) return status;
    if (bytes != (attribute == 1 ? 8 : 4)) return kInvalidValue;
    std::memcpy(&static_cast<Preference*>(handle)->numbers[attribute], value, bytes);
    return 0;
}
// Fits what the code under test must request: no workspace, sums that are not split, addresses of 16 bytes.
STANDIN_API int cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void* c, void* d,
                                               void* preference, int asked, Algorithm* found, int* count) {
    if (const int status = begin("cublasLtMatmulAlgoGetHeuristic"); status != 0) return status;
    const auto layout = [](void* handle) { return *static_cast<Layout*>(handle); };
    const std::map<int, std::uint64_t> expected = {{1, 0}, {3, 0}, {5, 16}, {6, 16}, {7, 16}, {8, 16}};
    *count = 0;
    if (asked < 1 || static_cast<Preference*>(preference)->numbers != expected) return kInvalidValue;
    if (!fits(*static_cast<Description*>(description), layout(a), layout(b), layout(c), layout(d)))
        return kNotSupported;
    *found = Algorithm{{42, 0, 0, 0, 0, 0, 0, 0}, 0, 0, 1.0F, {}};
    *count = 1;
    return 0;
}
STANDIN_API int cublasLtMatmul(void*, void* description, const void* alpha, const void* a, void* a_layout,
                               const void* b, void* b_layout, const void* beta, const void* c, void* c_layout, void* d,
                               void* d_layout, const std::uint64_t* algorithm, void*, std::size_t workspace_bytes,
                               void* stream) {
    if (const int status = begin("cublasLtMatmul"); status != 0) return status;
    const auto layout = [](void* handle) { return *static_cast<Layout*>(handle); };
    const Product product{*static_cast<Description*>(description),
                          layout(a_layout),
                          layout(b_layout),
                          layout(c_layout),
                          layout(d_layout),
                          a,
                          b,
                          c,
                          d,
                          *static_cast<const float*>(beta)};
    if (*static_cast<const float*>(alpha) != 1.0F || algorithm[0] != 42 || workspace_bytes != 0) return kInvalidValue;
    // The driver runs it in the stream's order, or records it.
    using LaunchHost = int (*)(void* stream, void (*function)(void*), void* data);
    void* const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto launch = driver == nullptr ? nullptr : reinterpret_cast<LaunchHost>(::dlsym(driver, "cuLaunchHostFunc"));
    if (launch == nullptr) return kNotSupported;
    std::function<void()>* work = nullptr;
    {
        const std::lock_guard<std::mutex> lock(library().mutex);
        work = &library().work.emplace_back([product] { compute(product); });
    }
    return launch(stream, run, work) == 0 ? 0 : kExecutionFailed;
}

}  // extern "C"
