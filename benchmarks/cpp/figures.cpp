// SPDX-License-Identifier: Apache-2.0
#include "figures.hpp"

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <thread>

namespace figures {
namespace {

// Linear interpolation between sorted samples, as NumPy's percentile.
double percentile(const std::vector<double>& sorted, double share) {
    const double position = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const double above = sorted[below + 1 < sorted.size() ? below + 1 : below];
    return sorted[below] + (position - static_cast<double>(below)) * (above - sorted[below]);
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') result.push_back('\\');
        result.push_back(c);
    }
    return result + "\"";
}

std::string CPU() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        const auto colon = line.find(": ");
        if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
    }
    return "unknown";
}

// A count of products, or null for an operation that has none.
std::string count(double value) { return value > 0 ? number(value) : "null"; }

std::string record(const Figure& figure, const std::string& contender, int threads) {
    const double median = percentile(figure.seconds, 0.5);
    const bool has_share = figure.operations > 0 && figure.peak > 0;
    const std::string share = has_share ? number(figure.operations / median / figure.peak) : "null";
    return "  {\"suite\": \"operation\", \"name\": " + quoted(figure.name) + ", \"contender\": " + quoted(contender) +
           ", \"precision\": " + quoted(figure.precision) + ", \"threads\": " + std::to_string(threads) +
           ",\n   \"seconds\": {\"runs\": " + std::to_string(figure.seconds.size()) + ", \"p50\": " + number(median) +
           ", \"p95\": " + number(percentile(figure.seconds, 0.95)) +
           ", \"p99\": " + number(percentile(figure.seconds, 0.99)) +
           ", \"minimum\": " + number(figure.seconds.front()) + "},\n   \"flops\": " + count(figure.operations) +
           ", \"peak_flops\": " + count(figure.peak) + ", \"share_of_peak\": " + share + "}";
}

}  // namespace

void write(const std::string& path, const std::string& contender, int threads, const std::vector<Figure>& figures) {
    const std::string temporary = path + ".tmp";
    std::ofstream file(temporary);
    file << "{\n \"schema\": \"lightwam-figures\",\n \"version\": 1,\n \"machine\": {\"CPU\": " << quoted(CPU())
         << ", \"cores\": " << std::thread::hardware_concurrency() << "},\n \"records\": [\n";
    for (std::size_t i = 0; i < figures.size(); ++i) {
        file << record(figures[i], contender, threads) << (i + 1 < figures.size() ? ",\n" : "\n");
    }
    file << " ]\n}\n";
    file.close();
    if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
        throw std::runtime_error("cannot write " + path + ": give a path that can be written");
    }
}

}  // namespace figures
