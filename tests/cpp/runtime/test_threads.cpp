// SPDX-License-Identifier: Apache-2.0
// One policy and several, used from many threads at once: the same chunks as alone, and nothing for ThreadSanitizer
// (the preset cpu-tsan) to find.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"
#include "small_engine.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

std::unique_ptr<Policy> open(const std::string& path, int threads) {
    PolicyOptions options;
    options.threads = threads;
    auto policy = std::make_unique<Policy>(path, options);
    policy->set_instruction(kTask);
    return policy;
}

void test_one_policy(const std::string& path) {
    const std::unique_ptr<Policy> policy = open(path, 3);
    const SmallObservation seen;
    const std::vector<float> first = infer(*policy, seen.view());
    policy->set_instruction("open the drawer");
    const std::vector<float> other = infer(*policy, seen.view());
    std::vector<int> right(4, 0);
    std::vector<std::thread> users;
    for (std::size_t user = 0; user < right.size(); ++user)
        users.emplace_back([&, user] {
            for (int turn = 0; turn < 50; ++turn) {
                if (turn % 5 == 0) policy->set_instruction(user % 2 == 0 ? kTask : "open the drawer");
                const std::vector<float> actions = infer(*policy, SmallObservation(8 + turn % 3, 9).view());
                const std::vector<float> known = infer(*policy, seen.view());
                right[user] += (known == first || known == other) && actions.size() == known.size();
                static_cast<void>(policy->instruction().size() + policy->instruction_computations() +
                                  policy->resize_plans_built() + policy->info().execution_info.size());
            }
        });
    for (std::thread& user : users) user.join();
    for (const int count : right) EXPECT(count == 50);
}

void test_policies(const std::string& path) {
    const std::vector<float> expected = infer(*open(path, 1), SmallObservation().view());
    std::vector<int> right(3, 0);
    std::vector<std::thread> owners;
    for (std::size_t owner = 0; owner < right.size(); ++owner)
        owners.emplace_back([&, owner] {
            for (int turn = 0; turn < 10; ++turn) {
                const std::unique_ptr<Policy> own = open(path, 1 + static_cast<int>(owner));
                for (int chunk = 0; chunk < 5; ++chunk)
                    right[owner] += infer(*own, SmallObservation().view()) == expected;
            }
        });
    for (std::thread& owner : owners) owner.join();
    for (const int count : right) EXPECT(count == 50);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string path = std::string(argv[1]) + "/small_images.lwam";
    test_one_policy(path);
    test_policies(path);
    return finish();
}
