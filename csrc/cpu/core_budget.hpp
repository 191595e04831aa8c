// SPDX-License-Identifier: Apache-2.0
//
// Shares the CPUs of a process between the thread pools that work at the same time, so that several policies in
// one process do not run more threads than there are CPUs.
#pragma once

#include <mutex>

namespace lightwam::cpu {

class ThreadPool;

class CoreBudget {
  public:
    explicit CoreBudget(int cores) : cores_(cores) {}
    CoreBudget(const CoreBudget&) = delete;
    CoreBudget& operator=(const CoreBudget&) = delete;

    int cores() const;
    // Never shrinks, so that one caller bound to fewer CPUs does not slow down the others.
    void grow(int cores);

    // While leases live, the cores are dealt out to their pools one by one in turn: each gets one at least (the
    // caller's own), none more than it has threads. A change counts from a pool's next parallel_for on. No allocation.
    class Lease {
      public:
        Lease(CoreBudget& budget, ThreadPool& pool);
        ~Lease();
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;

      private:
        friend class CoreBudget;
        CoreBudget& budget_;
        ThreadPool& pool_;
        Lease* next_ = nullptr;
        int share_ = 0;
    };

  private:
    void deal() noexcept;

    mutable std::mutex mutex_;
    int cores_;
    Lease* first_ = nullptr;
};

}  // namespace lightwam::cpu
