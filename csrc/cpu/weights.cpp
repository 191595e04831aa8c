// SPDX-License-Identifier: Apache-2.0
//
// Packing of constant weights.
#include "linear.hpp"
#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

// Source bytes of a piece, unless one panel needs more: worth handing to a thread, and at home in its cache.
constexpr std::size_t kPieceBytes = 128 * 1024;

// Taps and depths follow each other: the sum runs over both as one. Winograd form: one plane's.
Panels panels_of(const KernelTable& kernels, const WeightSource& source) noexcept {
    if (source.form == ConvForm::winograd) return {kernels, source.compute, source.rows, 1, source.depth};
    return {kernels, source.compute, source.rows, 1, source.taps * source.depth};
}

std::size_t row_bytes(const WeightSource& source) noexcept {
    return source.taps * source.depth * size_of(source.dtype);
}

// How the panels of all groups, counted as one sequence, are dealt out.
struct Deal {
    Deal(const Panels& panels, const WeightSource& source) noexcept
        : total(source.groups * panels.count),
          per_piece(
              std::max<std::size_t>(kPieceBytes / std::max<std::size_t>(panels.width * row_bytes(source), 1), 1)) {}
    std::size_t first_panel(std::size_t piece) const noexcept { return std::min(piece * per_piece, total); }

    std::size_t total;
    std::size_t per_piece;
};

// The source row of a panel's first column.
std::size_t first_row(const Panels& panels, const WeightSource& source, std::size_t panel) noexcept {
    return panel / panels.count * source.rows + panel % panels.count * panels.width;
}

// `data`: the source rows of this panel.
void pack_panel(const KernelTable& kernels, const WeightSource& source, const Panels& panels, std::size_t panel,
                const std::byte* data, std::byte* destination) noexcept {
    const void* rows[kMaxPanelColumns];
    const std::size_t in_group = panel % panels.count;
    Pack pack{};
    pack.rows = rows;
    pack.count = std::min(panels.width, panels.columns - in_group * panels.width);
    pack.source = source.dtype;
    pack.compute = source.compute;
    pack.depth = panels.depth;
    pack.vectors = panels.vectors(in_group);
    pack.panel = destination + panel / panels.count * panels.bytes() + in_group * panels.panel_bytes;
    for (std::size_t n = 0; n < pack.count; ++n) rows[n] = data + n * row_bytes(source);
    if (source.form == ConvForm::winograd) return kernels.pack_winograd(pack, panels.bytes());
    kernels.pack_rows(pack);
}

}  // namespace

std::size_t packed_bytes(const KernelTable& kernels, const WeightSource& source) noexcept {
    const std::size_t factors =
        source.form == ConvForm::winograd ? winograd_tile(source.compute).planes() : source.groups;
    return factors * panels_of(kernels, source).bytes();
}

std::size_t piece_count(const KernelTable& kernels, const WeightSource& source) noexcept {
    const Deal deal(panels_of(kernels, source), source);
    return ceil_div(deal.total, deal.per_piece);
}

WeightPiece weight_piece(const KernelTable& kernels, const WeightSource& source, std::size_t index) noexcept {
    const Panels panels = panels_of(kernels, source);
    const Deal deal(panels, source);
    const std::size_t begin = first_row(panels, source, deal.first_panel(index));
    return {begin, first_row(panels, source, deal.first_panel(index + 1)) - begin};
}

void pack_piece(const KernelTable& kernels, const WeightSource& source, std::size_t index, const void* rows,
                std::byte* destination) noexcept {
    const Panels panels = panels_of(kernels, source);
    const Deal deal(panels, source);
    const std::size_t first = deal.first_panel(index);
    const std::size_t begin = first_row(panels, source, first);
    for (std::size_t panel = first; panel < deal.first_panel(index + 1); ++panel) {
        const std::size_t offset = (first_row(panels, source, panel) - begin) * row_bytes(source);
        pack_panel(kernels, source, panels, panel, static_cast<const std::byte*>(rows) + offset, destination);
    }
}

void pack(const KernelTable& kernels, ThreadPool& pool, const WeightSource& source, std::byte* destination) noexcept {
    pool.parallel_for(piece_count(kernels, source), [&](std::size_t index, int) {
        const std::size_t offset = weight_piece(kernels, source, index).first_row * row_bytes(source);
        pack_piece(kernels, source, index, static_cast<const std::byte*>(source.data) + offset, destination);
    });
}

}  // namespace lightwam::cpu
