// SPDX-License-Identifier: Apache-2.0
#include "cuda/cublaslt.hpp"

#include <dlfcn.h>

#include <cstring>

namespace lightwam::cuda {

// Functions of the library's documented binary interface, named as there without "cublasLt". Handles are opaque.
struct CublasLtFunctions {
    // cublasLtMatmulHeuristicResult_t
    struct Algorithm {
        std::uint64_t algorithm[8];
        std::size_t workspace_bytes;
        int status;
        float waves;
        int reserved[4];
    };

#define LIGHTWAM_CUBLASLT_FUNCTION(result, name, symbol, ...) result (*name)(__VA_ARGS__);
#include "cuda/cublaslt_functions.def"
};

namespace {

// The newest first; one that is too new for the driver does not start.
constexpr const char* kLibraries[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

// cublasComputeType_t, cublasOperation_t, cublasLtEpilogue_t.
constexpr int kComputeF32 = 68;
constexpr std::int32_t kTransposed = 1;
constexpr std::uint32_t kEpilogueNone = 1;
constexpr std::uint32_t kEpilogueBias = 4;
constexpr std::uint32_t kEpilogueGeluTanh = 32;
// cublasLtMatmulDescAttributes_t.
constexpr int kTransposeA = 3;
constexpr int kEpilogue = 7;
constexpr int kBiasPointer = 8;
constexpr int kBiasType = 26;
// cublasLtMatmulPreferenceAttributes_t.
constexpr int kMaxWorkspaceBytes = 1;
constexpr int kReductionSchemes = 3;
constexpr int kAlignments[] = {5, 6, 7, 8};  // of A, B, C, D

// cudaDataType.
int data_type(engine::DType format) {
    if (format == engine::DType::f16) return 2;
    return format == engine::DType::bf16 ? 14 : 0;
}
constexpr std::int32_t kTypeF32 = 0;

bool look_up(void* library, CublasLtFunctions& functions) {
    const auto load = [library](auto& function, const char* name) {
        void* const address = ::dlsym(library, name);
        static_assert(sizeof(function) == sizeof(address));
        std::memcpy(&function, &address, sizeof(address));
        return address != nullptr;
    };
    bool all = true;
#define LIGHTWAM_CUBLASLT_FUNCTION(result, name, symbol, ...) all = load(functions.name, symbol) && all;
#include "cuda/cublaslt_functions.def"
    return all;
}

// "cuBLASLt 13.1.0"
std::string version_text(std::size_t version) {
    return "cuBLASLt " + std::to_string(version / 10'000) + "." + std::to_string(version % 10'000 / 100) + "." +
           std::to_string(version % 100);
}

// A description of the library, destroyed by its own function; null when it was not made.
class Handle {
  public:
    using Destroy = int (*)(void*);
    template <typename Create, typename... Arguments>
    Handle(Destroy destroy, Create create, Arguments... arguments) : destroy_(destroy) {
        if (create(&handle_, arguments...) != 0) handle_ = nullptr;
    }
    ~Handle() {
        if (handle_ != nullptr) destroy_(handle_);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    void* get() const { return handle_; }

  private:
    Destroy destroy_;
    void* handle_ = nullptr;
};

// The library counts by columns: a row-major [R, C] is its C x R. So D (outputs x rows) = Aᵀ B with A the weight
// (inputs x outputs) and B the input (inputs x rows), the bias runs down D's columns, and C is the residual.
class LinearCall final : public Call {
  public:
    LinearCall(const CublasLtFunctions& functions, void* handle, const engine::PlanLinear& linear)
        : functions_(functions),
          handle_(handle),
          linear_(linear),
          description_(functions.matmul_desc_destroy, functions.matmul_desc_create, kComputeF32, kTypeF32),
          weight_(layout(linear.x, linear.inputs, linear.outputs)),
          x_(layout(linear.x, linear.inputs, linear.rows)),
          y_(layout(linear.y, linear.outputs, linear.rows)) {}

    // False where the library cannot compute it.
    bool choose_algorithm() {
        const Handle preference(functions_.matmul_preference_destroy, functions_.matmul_preference_create);
        for (const Handle* handle : {&description_, &weight_, &x_, &y_, &preference})
            if (handle->get() == nullptr) return false;
        if (!describe() || !prefer(preference.get())) return false;
        int count = 0;
        const int status =
            functions_.matmul_algo_get_heuristic(handle_, description_.get(), weight_.get(), x_.get(), y_.get(),
                                                 y_.get(), preference.get(), 1, &algorithm_, &count);
        return status == 0 && count > 0 && algorithm_.status == 0 && algorithm_.workspace_bytes == 0;
    }

    Result enqueue(Stream stream, std::span<const DeviceAddress> addresses) const override {
        std::size_t next = 0;
        const auto argument = [&] {
            void* pointer = nullptr;
            std::memcpy(&pointer, &addresses[next++], sizeof(pointer));
            return pointer;
        };
        const void* const x = argument();
        const void* const weight = argument();
        int status = 0;
        if (linear_.bias) {
            const void* const bias = argument();
            status = functions_.matmul_desc_set_attribute(description_.get(), kBiasPointer, &bias, sizeof(bias));
        }
        const void* const residual = linear_.residual ? argument() : nullptr;
        void* const y = argument();
        const float one = 1.0F;
        const float beta = linear_.residual ? 1.0F : 0.0F;
        if (status == 0)
            status = functions_.matmul(handle_, description_.get(), &one, weight, weight_.get(), x, x_.get(), &beta,
                                       linear_.residual ? residual : y, y_.get(), y, y_.get(), algorithm_.algorithm,
                                       nullptr, 0, stream);
        if (status != 0)
            throw Error(ErrorKind::device, "cuBLASLt fails at a matmul of " + std::to_string(linear_.rows) + " x " +
                                               std::to_string(linear_.outputs) + " x " +
                                               std::to_string(linear_.inputs) + " (" +
                                               functions_.get_status_name(status) +
                                               "); remove the tuning file to run the default tactics");
        return Result::success;
    }

  private:
    Handle layout(engine::DType format, std::int64_t rows, std::int64_t columns) const {
        return Handle(functions_.matrix_layout_destroy, functions_.matrix_layout_create, data_type(format),
                      static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), rows);
    }
    template <typename Value>
    bool set(int attribute, const Value& value) const {
        return functions_.matmul_desc_set_attribute(description_.get(), attribute, &value, sizeof(value)) == 0;
    }
    bool describe() const {
        // The library looks at the alignment of the bias, so it gets an address that is as aligned as a plan's.
        const void* const anywhere = reinterpret_cast<const void*>(engine::kAddressAlignment);
        std::uint32_t epilogue = linear_.gelu_tanh ? kEpilogueGeluTanh : linear_.bias ? 0 : kEpilogueNone;
        if (linear_.bias) epilogue |= kEpilogueBias;
        return set(kTransposeA, kTransposed) && set(kEpilogue, epilogue) &&
               (!linear_.bias || (set(kBiasPointer, anywhere) && set(kBiasType, kTypeF32)));
    }
    bool prefer(void* preference) const {
        const std::uint64_t no_bytes = 0;
        const std::uint32_t none = 0;
        const auto alignment = static_cast<std::uint32_t>(engine::kAddressAlignment);
        const auto prefer_one = [&](int attribute, const auto& value) {
            return functions_.matmul_preference_set_attribute(preference, attribute, &value, sizeof(value)) == 0;
        };
        for (const int attribute : kAlignments)
            if (!prefer_one(attribute, alignment)) return false;
        return prefer_one(kMaxWorkspaceBytes, no_bytes) && prefer_one(kReductionSchemes, none);
    }

    const CublasLtFunctions& functions_;
    void* handle_;
    const engine::PlanLinear linear_;
    const Handle description_;
    const Handle weight_;
    const Handle x_;
    const Handle y_;
    CublasLtFunctions::Algorithm algorithm_{};
};

}  // namespace

std::unique_ptr<CublasLt> CublasLt::load(std::string& why) {
    why = "there is no cuBLASLt (libcublasLt.so.13 or .12) on this machine";
    for (const char* name : kLibraries) {
        void* const library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);  // stays, like the driver
        if (library == nullptr) continue;
        auto functions = std::make_unique<CublasLtFunctions>();
        if (!look_up(library, *functions)) {
            why = std::string(name) + " is too old: it lacks functions";
            continue;
        }
        void* handle = nullptr;
        if (const int status = functions->create(&handle); status != 0) {
            why = std::string(name) + " does not start: " + functions->get_status_name(status);
            continue;
        }
        why.clear();
        return std::unique_ptr<CublasLt>(new CublasLt(std::move(functions), handle));
    }
    return nullptr;
}

CublasLt::CublasLt(std::unique_ptr<CublasLtFunctions> functions, void* handle)
    : functions_(std::move(functions)), handle_(handle), version_(version_text(functions_->get_version())) {}

CublasLt::~CublasLt() { functions_->destroy(handle_); }

std::unique_ptr<Call> CublasLt::prepare(const engine::PlanLinear& linear) const {
    auto call = std::make_unique<LinearCall>(*functions_, handle_, linear);
    if (!call->choose_algorithm()) return nullptr;
    return call;
}

}  // namespace lightwam::cuda
