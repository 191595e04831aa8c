// SPDX-License-Identifier: Apache-2.0
#include "matmul.hpp"

namespace lightwam::cpu {
namespace {

// A panel's part that stays in the second-level cache while all tiles of a block pass over it.
constexpr std::size_t kPanelPartBytes = 320 * 1024;

// Panels that rows of tiles pass over together.
constexpr std::size_t kSideBySideBytes = 640 * 1024;

// Rows of a block: few enough that their accumulators stay in the second-level cache.
constexpr std::size_t kMaxBlockRows = 400;

constexpr std::size_t kLine = 64;  // bytes of a cache line

// Parts end where no 32-bit lane of depths is cut, whatever the data type.
constexpr std::size_t kDepthStep = 4;

// A part of the sum: taps [first_tap, +taps), depths [first_depth, +depth) of each.
struct Part {
    std::size_t first_tap;
    std::size_t taps;
    std::size_t first_depth;
    std::size_t depth;
};

class Parts {
  public:
    explicit Parts(const Panels& panels) : panels_(panels) {
        const std::size_t depth_bytes = panels.width * size_of(panels.compute);
        const std::size_t limit = std::max<std::size_t>(kPanelPartBytes / depth_bytes, 2);
        if (panels.taps == 1) {
            count = std::max<std::size_t>(ceil_div(panels.depth, limit), 1);
            step_ = std::max<std::size_t>(round_up(ceil_div(panels.depth, count), kDepthStep), kDepthStep);
            count = std::max<std::size_t>(ceil_div(panels.depth, step_), 1);
        } else {
            const std::size_t taps = std::max<std::size_t>(limit / std::max<std::size_t>(panels.padded_depth, 1), 1);
            count = ceil_div(panels.taps, taps);
            step_ = ceil_div(panels.taps, count);
            count = ceil_div(panels.taps, step_);
        }
    }

    Part operator[](std::size_t index) const noexcept {
        const std::size_t first = index * step_;
        if (panels_.taps == 1) return {0, 1, first, std::min(step_, panels_.depth - first)};
        return {first, std::min(step_, panels_.taps - first), 0, panels_.depth};
    }

    std::size_t count;

  private:
    const Panels& panels_;
    std::size_t step_;
};

void finish_tile(const KernelTable& kernels, const Panels& panels, const Block& block, const Tile& tile,
                 std::size_t panel, std::size_t row, std::size_t rows) noexcept {
    const std::size_t column = panel * panels.width;
    const std::size_t offset = row * block.stride + column;
    Epilogue epilogue{};
    epilogue.acc = tile.acc;
    epilogue.acc_stride = tile.acc_stride;
    epilogue.rows = rows;
    epilogue.columns = std::min(panels.width, panels.columns - column);
    if (block.quantisation.weight_scale != nullptr) {
        epilogue.column_scale = block.quantisation.weight_scale + column;
        epilogue.row_scale = block.quantisation.x_scale + row;
    }
    if (panels.compute == DType::i8) {
        const std::byte* sums = block.weight + panel * panels.panel_bytes + panels.sums_offset(panel);
        epilogue.column_sums = reinterpret_cast<const std::int32_t*>(sums);
        epilogue.row_zero = block.quantisation.x_zero + row;
    }
    epilogue.bias = block.bias == nullptr ? nullptr : block.bias + column;
    epilogue.activation = block.activation;
    epilogue.residual = at(block.residual, offset);
    epilogue.y = at(block.y, offset);
    epilogue.stride = block.stride;
    kernels.epilogue(epilogue);
}

// Whole panels that stay in the second-level cache together. Rows of tiles pass over all of them, so that a row of y is
// written in runs of several lines and x is read once for all of them.
std::size_t panels_side_by_side(const Panels& panels, std::size_t parts) noexcept {
    if (parts != 1) return 1;
    return std::max<std::size_t>(kSideBySideBytes / std::max<std::size_t>(panels.panel_bytes, 1), 1);
}

// While the first tiles of a part are computed, the part that this thread reads after it is fetched, one line each step
// of the sum: else the first tile of every part would wait for memory. A single tile of rows reads as fast as memory
// gives. `after`: what comes next behind the block's last part, else null.
void look_ahead(const KernelTable& kernels, const Panels& panels, const Block& block, const Part& part,
                std::size_t vectors, std::size_t group, std::size_t row, const std::byte* after, Tile& tile) noexcept {
    const std::size_t steps = part.taps * ceil_div(part.depth, 4 / size_of(panels.compute));
    const std::size_t bytes = steps * vectors * panels.lanes * 4;
    const std::size_t offset = row / kernels.tile_rows * steps * kLine;
    tile.ahead = nullptr;
    tile.ahead_step = 0;
    if (block.row_count <= kernels.tile_rows || offset >= bytes) return;
    const std::size_t next = group == 1 ? bytes : group * panels.panel_bytes;
    tile.ahead = (after != nullptr ? after : static_cast<const std::byte*>(tile.panel) + next) + offset;
    tile.ahead_step = kLine;
}

// Prefetches the residual of a tile before the tile is computed, which takes longer than memory. Inlined by force: GCC
// takes a function that only prefetches for one without effect and drops its calls.
__attribute__((always_inline)) inline void fetch_residual(const Panels& panels, const Block& block, std::size_t panel,
                                                          std::size_t row, std::size_t rows) noexcept {
    const std::size_t column = panel * panels.width;
    const std::size_t bytes = std::min(panels.width, panels.columns - column) * size_of(block.residual.dtype);
    const std::byte* first = element(block.residual, row * block.stride + column);
    for (std::size_t i = 0; i < rows; ++i, first += block.stride * size_of(block.residual.dtype)) {
        for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(first + at);
    }
}

}  // namespace

Panels::Panels(const KernelTable& kernels, DType dtype, std::size_t all_columns, std::size_t all_taps,
               std::size_t tap_depth)
    : compute(dtype),
      lanes(kernels.lanes),
      columns(all_columns),
      taps(all_taps),
      depth(tap_depth),
      padded_depth(round_up(tap_depth, 4 / size_of(dtype))),
      width(kernels.lanes * kernels.tile_vectors),
      count(ceil_div(all_columns, width)),
      panel_bytes(width * column_bytes()) {}

std::size_t Panels::column_bytes() const noexcept {
    return taps * padded_depth * size_of(compute) + (compute == DType::i8 ? sizeof(std::int32_t) : 0);
}

std::size_t Panels::vectors(std::size_t panel) const noexcept {
    return std::min(width / lanes, ceil_div(columns - panel * width, lanes));
}

std::size_t Panels::bytes() const noexcept {
    if (count == 0) return 0;
    return aligned((count - 1) * panel_bytes + vectors(count - 1) * lanes * column_bytes());
}

std::size_t Panels::sums_offset(std::size_t panel) const noexcept {
    return vectors(panel) * lanes * taps * padded_depth;
}

void pack_as_columns(const KernelTable& kernels, const Panels& panels, const void* const* rows,
                     std::byte* packed) noexcept {
    Pack pack{};
    pack.source = panels.compute;
    pack.compute = panels.compute;
    pack.depth = panels.depth;
    for (std::size_t panel = 0; panel < panels.count; ++panel) {
        pack.rows = rows + panel * panels.width;
        pack.count = std::min(panels.width, panels.columns - panel * panels.width);
        pack.vectors = panels.vectors(panel);
        pack.panel = packed + panel * panels.panel_bytes;
        kernels.pack_rows(pack);
    }
}

void pack_as_depths(const KernelTable& kernels, const Panels& panels, const void* const* rows, std::size_t first,
                    std::size_t last, std::byte* packed) noexcept {
    Pack pack{};
    pack.rows = rows + first;
    pack.count = last - first;
    pack.source = panels.compute;
    pack.compute = panels.compute;
    pack.depth = pack.count;
    for (std::size_t panel = 0; panel < panels.count; ++panel) {
        pack.first_column = panel * panels.width;
        pack.columns = std::min(panels.width, panels.columns - pack.first_column);
        pack.vectors = panels.vectors(panel);
        pack.panel =
            packed + panel * panels.panel_bytes + first * pack.vectors * panels.lanes * size_of(panels.compute);
        kernels.pack_columns(pack);
    }
}

Cut::Cut(const KernelTable& kernels, const Panels& packed, std::size_t rows, int all_threads)
    : threads(static_cast<std::size_t>(all_threads)), panels(packed.count) {
    const std::size_t wanted = threads == 1 ? 1 : threads * 4;
    const auto cut_rows = [&](std::size_t blocks) {
        rows_per_block = round_up(std::max<std::size_t>(ceil_div(rows, blocks), 1), kernels.tile_rows);
        row_blocks = ceil_div(rows, rows_per_block);
    };
    cut_rows(std::max<std::size_t>(ceil_div(rows, kMaxBlockRows), 1));
    if (row_blocks * panels < wanted && panels != 0) cut_rows(ceil_div(wanted, panels));
    panel_groups = std::min(panels, ceil_div(wanted, std::max<std::size_t>(row_blocks, 1)));
}

std::size_t acc_floats(const KernelTable& kernels, const Panels& panels, std::size_t rows_per_block) noexcept {
    const std::size_t rows = Parts(panels).count == 1 ? kernels.tile_rows : rows_per_block;
    return rows * panels.width;
}

void multiply(const KernelTable& kernels, const Panels& panels, const Block& block) noexcept {
    const Parts parts(panels);
    const auto& tiles = kernels.tiles[static_cast<std::size_t>(panels.compute)];
    const std::size_t element_bytes = size_of(panels.compute);
    const std::size_t group = panels_side_by_side(panels, parts.count);
    for (std::size_t first = block.first_panel; first < block.last_panel; first += group) {
        const std::size_t last = std::min(first + group, block.last_panel);
        for (std::size_t index = 0; index < parts.count; ++index) {
            const Part part = parts[index];
            const std::size_t depths = part.first_tap * panels.padded_depth + part.first_depth;
            Tile tile{};
            tile.row_stride = block.row_stride;
            tile.offset_bytes = part.first_depth * element_bytes;
            tile.taps = part.taps;
            tile.depth = part.depth;
            tile.acc_stride = panels.width;
            tile.accumulate = index != 0;
            const bool last_part = index + 1 == parts.count;
            const bool block_ends = last_part && last == block.last_panel;
            const std::byte* const next_block = block.weight + block.next_panel * panels.panel_bytes;
            for (std::size_t row = 0; row < block.row_count; row += kernels.tile_rows) {
                const std::size_t rows = std::min(kernels.tile_rows, block.row_count - row);
                tile.rows = block.rows + part.first_tap * block.row_stride + row;
                tile.acc = block.acc + (parts.count == 1 ? 0 : row * panels.width);
                for (std::size_t panel = first; panel < last; ++panel) {
                    const std::size_t vectors = panels.vectors(panel);
                    tile.panel =
                        block.weight + panel * panels.panel_bytes + depths * vectors * panels.lanes * element_bytes;
                    const std::byte* after = block_ends ? next_block + (panel - first) * panels.panel_bytes : nullptr;
                    look_ahead(kernels, panels, block, part, vectors, group, row, after, tile);
                    if (last_part && block.residual.data != nullptr) fetch_residual(panels, block, panel, row, rows);
                    tiles[rows - 1][vectors - 1](tile);
                    if (last_part) finish_tile(kernels, panels, block, tile, panel, row, rows);
                }
            }
        }
    }
}

}  // namespace lightwam::cpu
