// SPDX-License-Identifier: Apache-2.0
// CPU quotas of control groups, versions 1 and 2, from trees of files like those of the kernel.
#include <sched.h>

#include <filesystem>
#include <map>
#include <string>

#include "expect.hpp"
#include "runtime/cpus.hpp"

using namespace lightwam::runtime;
using namespace lightwam::test;

namespace {

const std::filesystem::path kRoot = "cpus_scratch";

int quota(const std::map<std::string, std::string>& files) {
    std::filesystem::remove_all(kRoot);
    for (const auto& [name, text] : files) {
        std::filesystem::create_directories((kRoot / name).parent_path());
        write_file((kRoot / name).string(), text);
    }
    const int result = quota_cpus(kRoot.string());
    std::filesystem::remove_all(kRoot);
    return result;
}

void test_version_2() {
    const std::string self = "0::/robot/policy\n";
    EXPECT(quota({}) == 0);
    EXPECT(quota({{"proc/self/cgroup", self}}) == 0);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/robot/policy/cpu.max", "max 100000\n"}}) == 0);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/robot/policy/cpu.max", "200000 100000\n"}}) == 2);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/robot/policy/cpu.max", "150000 100000\n"}}) == 2);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/robot/policy/cpu.max", "1000 100000\n"}}) == 1);
    EXPECT(quota({{"proc/self/cgroup", self},
                  {"sys/fs/cgroup/robot/policy/cpu.max", "800000 100000\n"},
                  {"sys/fs/cgroup/robot/cpu.max", "300000 100000\n"}}) == 3);  // the group above allows less
    EXPECT(quota({{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "50000 50000\n"}}) == 1);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/cpu.max", "200000 50000\n"}}) == 4);
    EXPECT(quota({{"proc/self/cgroup", "nonsense\n\n"}, {"sys/fs/cgroup/cpu.max", "x"}}) == 0);
    EXPECT(quota({{"proc/self/cgroup", self}, {"sys/fs/cgroup/cpu.max", "100000 0\n"}}) == 0);
}

void test_version_1() {
    const std::string self = "5:cpuset:/a\n4:cpu,cpuacct:/docker/abc\n";
    const std::string group = "sys/fs/cgroup/cpu,cpuacct/docker/abc/";
    EXPECT(quota({{"proc/self/cgroup", self},
                  {group + "cpu.cfs_quota_us", "250000\n"},
                  {group + "cpu.cfs_period_us", "100000\n"}}) == 3);
    EXPECT(quota({{"proc/self/cgroup", self},
                  {group + "cpu.cfs_quota_us", "-1\n"},
                  {group + "cpu.cfs_period_us", "100000\n"}}) == 0);
    EXPECT(quota({{"proc/self/cgroup", self},  // mounted as the container's own group
                  {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n"},
                  {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}) == 1);
    EXPECT(quota({{"proc/self/cgroup", "5:cpuset:/\n"},
                  {"sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n"},
                  {"sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"}}) == 0);
}

void test_affinity() {
    cpu_set_t before;
    EXPECT(::sched_getaffinity(0, sizeof(before), &before) == 0);
    EXPECT(available_cpus() >= 1 && available_cpus() <= CPU_COUNT(&before));
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    EXPECT(::sched_setaffinity(0, sizeof(one), &one) == 0);
    EXPECT(available_cpus() == 1);
    EXPECT(::sched_setaffinity(0, sizeof(before), &before) == 0);
}

}  // namespace

int main() {
    test_version_2();
    test_version_1();
    test_affinity();
    return finish();
}
