// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lightwam::cpu {
namespace {

// About a hundred microseconds of polling before a thread sleeps: longer than threads of one operation usually differ,
// for waking a thread of a virtual machine takes tens of microseconds; short against a chunk, so that two policies in
// one process do not fight for the CPU.
constexpr int kSpins = 4000;

inline void pause() noexcept {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr std::uint32_t kOpen = 1U << 31U;
constexpr std::uint32_t kPlacesShift = 16;
constexpr std::uint32_t kInsideMask = (1U << kPlacesShift) - 1;
constexpr int kMaxThreads = 1 << 15;

bool has_place(std::uint32_t job) noexcept {
    return (job & kOpen) != 0 && (job & kInsideMask) < (job & ~kOpen) >> kPlacesShift;
}

// Waits until `value` differs from `old`.
template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) noexcept {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

struct ThreadPool::State {
    // 32 bit, so that waiting on them is one futex.
    alignas(64) std::atomic<std::uint32_t> generation{0};
    // kOpen while a job may be joined, then (from bit 16 on) how many workers may be inside it, then how many are. A
    // worker that wakes too late to help does not join, so nobody waits for a thread that the operating system has not
    // scheduled.
    alignas(64) std::atomic<std::uint32_t> job{0};
    alignas(64) std::atomic<std::size_t> next{0};
    std::size_t count = 0;
    Function function = nullptr;
    void* context = nullptr;
    std::atomic<bool> stop{false};
    std::vector<std::thread> workers;
};

ThreadPool::ThreadPool(int threads) : threads_(threads), limit_(threads), state_(std::make_unique<State>()) {
    if (threads < 1 || threads > kMaxThreads)
        throw std::invalid_argument("threads must be 1 to 32768, got " + std::to_string(threads));
    state_->workers.reserve(static_cast<std::size_t>(threads - 1));
    try {
        for (int thread = 1; thread < threads; ++thread) {
            state_->workers.emplace_back([this, thread] { work(thread); });
        }
    } catch (...) {
        shut_down();
        throw;
    }
}

ThreadPool::~ThreadPool() { shut_down(); }

void ThreadPool::shut_down() noexcept {
    state_->stop.store(true, std::memory_order_relaxed);
    state_->generation.fetch_add(1, std::memory_order_release);
    state_->generation.notify_all();
    for (std::thread& worker : state_->workers) worker.join();
    state_->workers.clear();
}

void ThreadPool::drain(int thread) noexcept {
    State& state = *state_;
    for (;;) {
        const std::size_t index = state.next.fetch_add(1, std::memory_order_relaxed);
        if (index >= state.count) return;
        state.function(state.context, index, thread);
    }
}

void ThreadPool::work(int thread) noexcept {
    State& state = *state_;
    for (std::uint32_t seen = 0;;) {
        wait_while_equal(state.generation, seen);
        seen = state.generation.load(std::memory_order_acquire);
        if (state.stop.load(std::memory_order_relaxed)) return;
        std::uint32_t job = state.job.load(std::memory_order_relaxed);
        bool joined = false;
        while (has_place(job) && !joined) {
            joined =
                state.job.compare_exchange_weak(job, job + 1, std::memory_order_acquire, std::memory_order_relaxed);
        }
        if (!joined) continue;
        drain(thread);
        if (((state.job.fetch_sub(1, std::memory_order_acq_rel) - 1) & kInsideMask) == 0) state.job.notify_one();
    }
}

void ThreadPool::run(std::size_t count, Function function, void* context) noexcept {
    const std::size_t places = std::min(static_cast<std::size_t>(limit()), count);
    if (places <= 1) {
        for (std::size_t index = 0; index < count; ++index) function(context, index, 0);
        return;
    }
    State& state = *state_;
    state.count = count;
    state.function = function;
    state.context = context;
    state.next.store(0, std::memory_order_relaxed);
    const std::uint32_t helpers = static_cast<std::uint32_t>(places - 1);
    state.job.store(kOpen | helpers << kPlacesShift, std::memory_order_release);
    state.generation.fetch_add(1, std::memory_order_release);
    if (static_cast<int>(places) == threads_) {
        state.generation.notify_all();
    } else {  // the others sleep on: woken for nothing they would take CPU time from those who work
        for (std::uint32_t helper = 0; helper < helpers; ++helper) state.generation.notify_one();
    }
    drain(0);
    state.job.fetch_and(kInsideMask, std::memory_order_acq_rel);
    for (std::uint32_t job = state.job.load(std::memory_order_acquire); job != 0;
         job = state.job.load(std::memory_order_acquire)) {
        wait_while_equal(state.job, job);
    }
}

int CoreBudget::cores() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return cores_;
}

void CoreBudget::grow(int cores) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cores_ = std::max(cores_, cores);
    deal();
}

void CoreBudget::deal() noexcept {
    int left = cores_;
    for (Lease* lease = first_; lease != nullptr; lease = lease->next_) {
        lease->share_ = 1;
        --left;
    }
    for (bool dealt = true; dealt && left > 0;) {
        dealt = false;
        for (Lease* lease = first_; lease != nullptr && left > 0; lease = lease->next_) {
            if (lease->share_ == lease->pool_.threads()) continue;
            ++lease->share_;
            --left;
            dealt = true;
        }
    }
    for (const Lease* lease = first_; lease != nullptr; lease = lease->next_) lease->pool_.set_limit(lease->share_);
}

CoreBudget::Lease::Lease(CoreBudget& budget, ThreadPool& pool) : budget_(budget), pool_(pool) {
    const std::lock_guard<std::mutex> lock(budget_.mutex_);
    next_ = budget_.first_;
    budget_.first_ = this;
    budget_.deal();
}

CoreBudget::Lease::~Lease() {
    const std::lock_guard<std::mutex> lock(budget_.mutex_);
    Lease** link = &budget_.first_;
    while (*link != this) link = &(*link)->next_;
    *link = next_;
    pool_.set_limit(pool_.threads());
    budget_.deal();
}

}  // namespace lightwam::cpu
