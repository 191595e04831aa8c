// SPDX-License-Identifier: Apache-2.0
//
// A fixed set of threads that run index ranges, and the budget of CPUs that such sets share. No allocation after
// construction, no exception crosses it.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <type_traits>

namespace lightwam::cpu {

class ThreadPool {
  public:
    // `threads` counts the caller: 1 starts no thread and runs everything inline. Throws std::invalid_argument below 1
    // and std::system_error when a thread cannot be started.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const noexcept { return threads_; }

    // At most this many of the threads, the caller among them, work on each parallel_for that begins from now on;
    // 1 to threads(). Any thread may set it, also while the pool works.
    void set_limit(int threads) noexcept { limit_.store(threads, std::memory_order_relaxed); }
    int limit() const noexcept { return limit_.load(std::memory_order_relaxed); }

    // Runs body(index, thread) for every index in [0, count), thread in [0, threads()); returns when all have run.
    // Indices are handed out one by one in rising order, so the caller makes each worth a few microseconds. The body
    // must not throw and must not use this pool. One call at a time.
    template <class Body>
    void parallel_for(std::size_t count, Body&& body) noexcept {
        using Plain = std::remove_reference_t<Body>;
        run(
            count, [](void* context, std::size_t index, int thread) { (*static_cast<Plain*>(context))(index, thread); },
            const_cast<void*>(static_cast<const void*>(std::addressof(body))));
    }

  private:
    using Function = void (*)(void* context, std::size_t index, int thread);

    void run(std::size_t count, Function function, void* context) noexcept;
    void work(int thread) noexcept;
    void drain(int thread) noexcept;
    void shut_down() noexcept;

    struct State;
    int threads_;
    std::atomic<int> limit_;
    std::unique_ptr<State> state_;
};

// Shares the CPUs of a process between the thread pools that work at the same time, so that several policies in
// one process do not run more threads than there are CPUs.
class CoreBudget {
  public:
    constexpr explicit CoreBudget(int cores) : cores_(cores) {}
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
