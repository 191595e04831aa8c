// SPDX-License-Identifier: Apache-2.0
// cuBLASLt as one more tactic of linear layers, where the machine has it: loaded at the first use, like the driver.
#pragma once

#include <memory>
#include <string>

#include "cuda/graph.hpp"

namespace lightwam::cuda {

struct CublasLtFunctions;

// The library, ready in the current context. It gets no memory of its own and may not split sums over blocks, so that
// a task's result is the same every time.
class CublasLt {
  public:
    // Null where there is none that works with this driver; then `why` says so in one line.
    static std::unique_ptr<CublasLt> load(std::string& why);
    ~CublasLt();
    CublasLt(const CublasLt&) = delete;
    CublasLt& operator=(const CublasLt&) = delete;

    // "cuBLASLt 13.1.0"
    const std::string& version() const { return version_; }
    // Null where the library does not compute such a layer on this GPU. The call must not outlive the library. Its
    // enqueue throws Error (device) where the library fails.
    std::unique_ptr<Call> prepare(const engine::PlanLinear& linear) const;

  private:
    CublasLt(std::unique_ptr<CublasLtFunctions> functions, void* handle);

    std::unique_ptr<CublasLtFunctions> functions_;
    void* handle_;
    std::string version_;
};

}  // namespace lightwam::cuda
