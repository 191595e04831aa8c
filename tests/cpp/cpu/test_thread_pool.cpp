// SPDX-License-Identifier: Apache-2.0
//
// Every index runs exactly once, runs follow each other without loss, and pools can be made and dropped.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "cpu/isa/kernel_table.hpp"

namespace cpu = lightwam::cpu;

int main() {
    for (const int threads : {1, 2, 5}) {
        cpu::ThreadPool pool(threads);
        std::vector<int> seen(1000);
        std::atomic<bool> thread_in_range{true};
        for (std::size_t count = 0; count < 1000; ++count) {
            pool.parallel_for(count, [&](std::size_t i, int thread) {
                ++seen[i];
                if (thread < 0 || thread >= threads) thread_in_range = false;
            });
            if (count % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // let the workers sleep
        }
        bool right = true;
        for (std::size_t i = 0; i < seen.size(); ++i) right = right && seen[i] == static_cast<int>(999 - i);
        check::that(right, "every index once, " + std::to_string(threads) + " threads");
        check::that(thread_in_range, "thread number in range");
    }
    for (int i = 0; i < 50; ++i) {
        cpu::ThreadPool pool(3);
        std::atomic<int> sum{0};
        if (i % 2 == 0) pool.parallel_for(7, [&](std::size_t index, int) { sum += static_cast<int>(index); });
        check::that(sum == (i % 2 == 0 ? 21 : 0), "short-lived pool");
    }
    bool failed = false;
    try {
        cpu::ThreadPool pool(0);
    } catch (const std::invalid_argument&) {
        failed = true;
    }
    check::that(failed, "no threads is an error");
    check::that(cpu::kernels_of(cpu::Level::portable) != nullptr, "the portable level is always there");
    check::that(cpu::best_kernels() == cpu::kernels_of(cpu::best_level()), "best kernels");
    for (const cpu::Level level : check::levels()) {
        check::that(cpu::kernels_of(level)->level == level, cpu::level_name(level));
    }
    return check::finish("thread_pool");
}
