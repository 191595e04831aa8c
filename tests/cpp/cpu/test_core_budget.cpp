// SPDX-License-Identifier: Apache-2.0
//
// Cores are dealt out fairly, pools keep to their limit, and pools that share a budget at once lose no work.
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "check.hpp"

namespace cpu = lightwam::cpu;

namespace {

void test_shares() {
    cpu::CoreBudget budget(5);
    cpu::ThreadPool four(4);
    cpu::ThreadPool other(4);
    cpu::ThreadPool one(1);
    {
        const cpu::CoreBudget::Lease alone(budget, four);
        check::that(four.limit() == 4, "a pool alone gets all its threads");
        {
            const cpu::CoreBudget::Lease second(budget, other);
            const cpu::CoreBudget::Lease third(budget, one);
            check::that(four.limit() == 2 && other.limit() == 2 && one.limit() == 1, "five cores for 4, 4 and 1");
            budget.grow(6);
            check::that(four.limit() + other.limit() == 5, "the sixth core goes to one of them");
            budget.grow(2);
            check::that(budget.cores() == 6, "a budget never shrinks");
        }
        check::that(four.limit() == 4 && other.limit() == 4, "what is given back is dealt out again");
    }
    cpu::CoreBudget small(1);
    const cpu::CoreBudget::Lease first(small, four);
    const cpu::CoreBudget::Lease second(small, other);
    check::that(four.limit() == 1 && other.limit() == 1, "everyone has at least the caller's own");
}

void test_limit() {
    constexpr std::size_t kItems = 64;
    cpu::ThreadPool pool(5);
    for (int limit = 1; limit <= 5; ++limit) {
        pool.set_limit(limit);
        std::atomic<int> inside{0};
        std::atomic<int> most{0};
        std::atomic<int> arrived{0};
        std::vector<int> seen(kItems);
        pool.parallel_for(kItems, [&](std::size_t index, int) {
            const int now = inside.fetch_add(1) + 1;
            for (int old = most; old < now && !most.compare_exchange_weak(old, now);) {
            }
            if (index < static_cast<std::size_t>(limit)) {  // the first items wait for one thread each
                arrived.fetch_add(1);
                while (arrived < limit) std::this_thread::yield();
            }
            inside.fetch_sub(1);
            ++seen[index];
        });
        check::that(most == limit, "as many threads inside as the limit " + std::to_string(limit));
        check::that(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }), "every index once");
    }
}

void test_at_once() {
    constexpr int kCallers = 3;
    constexpr std::size_t kRuns = 2000;
    cpu::CoreBudget budget(2);
    std::vector<std::thread> callers;
    std::vector<std::size_t> sums(kCallers);
    for (int caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back([&, caller] {
            cpu::ThreadPool pool(3);
            for (std::size_t run = 0; run < kRuns; ++run) {
                const cpu::CoreBudget::Lease lease(budget, pool);
                std::size_t cells[16] = {};
                pool.parallel_for(16, [&](std::size_t index, int) { cells[index] += run + index; });
                for (const std::size_t cell : cells) sums[static_cast<std::size_t>(caller)] += cell;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    for (const std::size_t sum : sums)
        check::that(sum == 16 * (kRuns * (kRuns - 1) / 2) + 120 * kRuns, "all items of pools that work at once");
}

}  // namespace

int main() {
    test_shares();
    test_limit();
    test_at_once();
    return check::finish("core_budget");
}
