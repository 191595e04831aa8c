// SPDX-License-Identifier: Apache-2.0
//
// The JSON schema of speed figures (python/lightwam/bench/figures.py, docs/guides/measure-speed.md) for the operations.
#pragma once

#include <string>
#include <vector>

namespace figures {

struct Figure {
    std::string name;
    std::string precision;
    std::vector<double> seconds;  // sorted samples, each the mean of a few runs
    double operations = 0.0;      // products of one run, 2 a multiply-add
    double peak = 0.0;            // operations per second that the registers reach
};

// Writes all figures to `path` under a temporary name and renames it. Throws std::runtime_error.
void write(const std::string& path, const std::string& contender, int threads, const std::vector<Figure>& figures);

}  // namespace figures
