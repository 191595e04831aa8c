// SPDX-License-Identifier: Apache-2.0
#include "runtime/cpus.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>
#include <thread>

namespace lightwam::runtime {
namespace {

constinit cpu::CoreBudget budget(1);

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// CPUs a group may use, from "QUOTA PERIOD" in microseconds; a quota of "max" or -1 is none.
double share(const std::string& quota, double period) {
    std::istringstream text(quota);
    double value = 0;
    return text >> value && value > 0 && period > 0 ? value / period : kUnlimited;
}

double group_share(const std::string& folder, bool version_2) {
    std::string quota;
    double period = 0;
    if (version_2) {
        std::ifstream(folder + "/cpu.max") >> quota >> period;
    } else {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    return share(quota, period);
}

// The smallest share of a group and of all above it. In a container the groups may be mounted without the path that
// the kernel tells; the walk then ends at the mount itself, which is the container's own group.
double smallest_share(const std::string& mount, std::string path, bool version_2) {
    double smallest = kUnlimited;
    for (;;) {
        smallest = std::min(smallest, group_share(mount + path, version_2));
        const std::size_t slash = path.find_last_of('/');
        if (slash == std::string::npos) return smallest;
        path.resize(slash);
    }
}

}  // namespace

int quota_cpus(const std::string& root) {
    const std::string mount = root + "/sys/fs/cgroup";
    double smallest = kUnlimited;
    std::ifstream groups(root + "/proc/self/cgroup");  // lines "number:controllers:path"
    for (std::string line; std::getline(groups, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            smallest = std::min(smallest, smallest_share(mount, path, true));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            smallest = std::min(smallest, smallest_share(mount + "/cpu", path, false));
            smallest = std::min(smallest, smallest_share(mount + "/" + controllers, path, false));
        }
    }
    if (smallest > std::numeric_limits<int>::max()) return 0;
    return std::max(1, static_cast<int>(std::ceil(smallest - 1e-6)));
}

int available_cpus() {
    cpu_set_t mask;
    int cpus = static_cast<int>(std::thread::hardware_concurrency());
    if (::sched_getaffinity(0, sizeof(mask), &mask) == 0) cpus = CPU_COUNT(&mask);
    if (const int quota = quota_cpus(""); quota > 0) cpus = std::min(cpus, quota);
    return std::max(1, cpus);
}

cpu::CoreBudget& process_budget() noexcept { return budget; }

void forget_process_budget() noexcept { std::construct_at(&budget, 1); }

}  // namespace lightwam::runtime
