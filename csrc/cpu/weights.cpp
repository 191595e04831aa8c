// SPDX-License-Identifier: Apache-2.0
//
// Packing of constant weights.
#include "linear.hpp"
#include "product.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

constexpr std::size_t kMaxPanelColumns = 64;

void pack_panel(const KernelTable& kernels, const WeightSource& source, const Panels& panels, std::size_t group,
                std::size_t panel, std::byte* destination) noexcept {
    const void* rows[kMaxPanelColumns];
    const std::size_t first = panel * panels.width;
    Pack pack{};
    pack.rows = rows;
    pack.count = std::min(panels.width, panels.columns - first);
    pack.source = source.dtype;
    pack.compute = source.compute;
    pack.depth = panels.depth;
    pack.vectors = panels.vectors(panel);
    pack.panel = destination + group * panels.bytes() + panel * panels.panel_bytes;
    const Input data{source.data, source.dtype};
    for (std::size_t n = 0; n < pack.count; ++n) {
        rows[n] = element(data, (group * source.rows + first + n) * panels.depth);
    }
    kernels.pack_rows(pack);
}

// Taps and depths follow each other: the sum runs over both as one.
Panels panels_of(const KernelTable& kernels, const WeightSource& source) noexcept {
    return {kernels, source.compute, source.rows, 1, source.taps * source.depth};
}

}  // namespace

std::size_t packed_bytes(const KernelTable& kernels, const WeightSource& source) noexcept {
    return source.groups * panels_of(kernels, source).bytes();
}

void pack(const KernelTable& kernels, ThreadPool& pool, const WeightSource& source, std::byte* destination) noexcept {
    const Panels panels = panels_of(kernels, source);
    pool.parallel_for(source.groups * panels.count, [&](std::size_t item, int) {
        pack_panel(kernels, source, panels, item / panels.count, item % panels.count, destination);
    });
}

}  // namespace lightwam::cpu
