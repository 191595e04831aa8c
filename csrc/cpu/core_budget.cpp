// SPDX-License-Identifier: Apache-2.0
#include "core_budget.hpp"

#include <algorithm>

#include "thread_pool.hpp"

namespace lightwam::cpu {

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
