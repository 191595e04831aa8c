// SPDX-License-Identifier: Apache-2.0
//
// A work item is a run of tiles in reading order. Its windows are transformed to planes [tiles, Cin]; each plane is
// a matmul with the same plane of the transformed taps; a panel's products are transformed back and written before
// the next panel. The taps of all planes do not fit into the second-level cache: they come from the third, once an
// item.
#include <cstring>

#include "conv2d.hpp"
#include "matmul.hpp"
#include "thread_pool.hpp"

namespace lightwam::cpu {
namespace {

// Tiles of a work item: enough products for each line of taps, few enough that a plane's windows stay near.
constexpr std::size_t kItemTiles = 48;

// Planes are shifted against each other by a cache line: at a multiple of 4096 bytes all would fall into one set.
constexpr std::size_t kPlanePadding = 64;

WinogradTile tile_of(const Conv2dArgs& a) noexcept { return winograd_tile(a.x.dtype); }

std::size_t tile_rows(const Conv2dArgs& a) noexcept { return ceil_div(out_height(a), tile_of(a).rows); }
std::size_t tile_columns(const Conv2dArgs& a) noexcept { return ceil_div(out_width(a), tile_of(a).columns); }

std::size_t window_row_bytes(const Conv2dArgs& a) noexcept {
    return tile_of(a).window_columns() * a.in_channels * size_of(a.x.dtype);
}

// Unsigned arithmetic: a position left of or above the image wraps to a huge number.
bool sticks_out(const Conv2dArgs& a, std::size_t tile_column) noexcept {
    const std::size_t x = tile_of(a).columns * tile_column - a.padding_left;
    return x >= a.width || x + tile_of(a).window_columns() > a.width;
}

// Most windows that `tiles` tiles in a row may have to copy.
std::size_t copied_windows(const Conv2dArgs& a, std::size_t tiles) noexcept {
    const WinogradTile shape = tile_of(a);
    const InsideColumns inside(a.width, a.padding_left, shape.window_columns(), shape.columns, tile_columns(a));
    const std::size_t columns = tile_columns(a) - (inside.last - inside.first);
    return std::min(tiles, columns * (ceil_div(tiles, tile_columns(a)) + 1));
}

// Items of whole groups of `tile_rows` tiles, evenly cut, their number a multiple of the number of threads.
struct TileCut {
    TileCut(const KernelTable& kernels, const Conv2dArgs& a, int threads) noexcept
        : group(kernels.tile_rows),
          tiles(cpu::tile_rows(a) * tile_columns(a)),
          groups(ceil_div(tiles, group)),
          items(std::min(round_up(ceil_div(tiles, kItemTiles), static_cast<std::size_t>(threads)), groups)) {}
    std::size_t first(std::size_t item) const noexcept { return std::min(groups * item / items * group, tiles); }
    std::size_t tiles_per_item() const noexcept { return ceil_div(groups, items) * group; }

    std::size_t group;
    std::size_t tiles;
    std::size_t groups;
    std::size_t items;
};

struct ThreadScratch {
    ThreadScratch(Scratch& scratch, const Conv2dArgs& a, const Panels& panels, std::size_t tiles)
        : window_stride(window_row_bytes(a)),
          plane_bytes(aligned(tiles * panels.depth * size_of(panels.compute)) + kPlanePadding),
          products_stride((aligned(tiles * panels.width * sizeof(float)) + kPlanePadding) / sizeof(float)),
          window_rows(scratch.take<const void*>(tile_of(a).window_rows() * tiles)),
          plane_rows(scratch.take<const void*>(tiles)),
          windows(scratch.take<std::byte>(copied_windows(a, tiles) * tile_of(a).window_rows() * window_stride)),
          planes(scratch.take<std::byte>(tile_of(a).planes() * plane_bytes)),
          products(scratch.take<float>(tile_of(a).planes() * products_stride)) {}

    std::size_t window_stride;    // bytes of a window row
    std::size_t plane_bytes;      // from one plane of transformed windows to the next
    std::size_t products_stride;  // floats from one plane of products to the next
    const void** window_rows;     // [tiles, window rows]
    const void** plane_rows;      // [tiles]
    std::byte* windows;           // [copied, window rows, window columns, Cin]
    std::byte* planes;
    float* products;
};

struct Plan {
    Plan(const KernelTable& kernels, int threads, const Conv2dArgs& a)
        : panels(kernels, a.x.dtype, a.out_channels, 1, a.in_channels),
          cut(kernels, a, threads),
          zero_bytes(aligned(window_row_bytes(a))) {
        Scratch scratch(nullptr);
        const ThreadScratch one(scratch, a, panels, cut.tiles_per_item());
        thread_bytes = scratch.used();
    }
    Panels panels;
    TileCut cut;
    std::size_t zero_bytes;  // a window row of zeros
    std::size_t thread_bytes;
};

// The window row that begins at pixel x of image row y, some of them outside.
void copy_row(const Conv2dArgs& a, std::size_t y, std::size_t x, std::byte* row) noexcept {
    const std::size_t pixel_bytes = a.in_channels * size_of(a.x.dtype);
    for (std::size_t j = 0; j < tile_of(a).window_columns(); ++j, row += pixel_bytes) {
        if (x + j < a.width) {
            std::memcpy(row, element(a.x, (y * a.width + x + j) * a.in_channels), pixel_bytes);
        } else {
            std::memset(row, 0, pixel_bytes);
        }
    }
}

// Pointers to the window rows of the tiles [first, last).
void point_to_windows(const Conv2dArgs& a, std::size_t first, std::size_t last, const std::byte* zeros,
                      const ThreadScratch& mine) noexcept {
    const WinogradTile shape = tile_of(a);
    const std::size_t columns = tile_columns(a);
    std::size_t row = first / columns;
    std::size_t column = first % columns;
    std::byte* copy = mine.windows;
    const void** pointers = mine.window_rows;
    for (std::size_t tile = first; tile < last; ++tile) {
        const std::size_t x = shape.columns * column - a.padding_left;
        const bool copies = sticks_out(a, column);
        for (std::size_t i = 0; i < shape.window_rows(); ++i, ++pointers) {
            const std::size_t y = shape.rows * row + i - a.padding_top;
            *pointers = zeros;
            if (y >= a.height) continue;
            *pointers = copies ? copy : element(a.x, (y * a.width + x) * a.in_channels);
            if (!copies) continue;
            copy_row(a, y, x, copy);
            copy += mine.window_stride;
        }
        if (++column == columns) {
            column = 0;
            ++row;
        }
    }
}

// Makes the tile with this index of a panel fetch its part of the panel that stands `next` bytes further on.
void fetch_ahead(Tile& tile, const Panels& panels, std::size_t vectors, std::size_t index, std::size_t next) noexcept {
    constexpr std::size_t kLine = 64;
    const std::size_t steps = ceil_div(panels.depth, 4 / size_of(panels.compute));
    const std::size_t offset = index * steps * kLine;
    const bool fetches = offset < steps * vectors * panels.lanes * 4;
    tile.ahead = fetches ? static_cast<const std::byte*>(tile.panel) + next + offset : nullptr;
    tile.ahead_step = fetches ? kLine : 0;
}

// products[plane] [tiles, width] = planes[plane] [tiles, Cin] . taps[plane] for one panel. Meanwhile the next plane's
// panel is fetched, one line each step of the sum.
void multiply_planes(const KernelTable& kernels, const Panels& panels, const std::byte* weight, std::size_t panel,
                     std::size_t tiles, const ThreadScratch& mine) noexcept {
    const auto& kernel = kernels.tiles[static_cast<std::size_t>(panels.compute)];
    const std::size_t vectors = panels.vectors(panel);
    Tile tile{};
    tile.taps = 1;
    tile.depth = panels.depth;
    tile.acc_stride = panels.width;
    for (std::size_t plane = 0; plane < winograd_tile(panels.compute).planes(); ++plane) {
        tile.panel = weight + plane * panels.bytes() + panel * panels.panel_bytes;
        tile.offset_bytes = plane * mine.plane_bytes;
        for (std::size_t row = 0; row < tiles; row += kernels.tile_rows) {
            const std::size_t rows = std::min(kernels.tile_rows, tiles - row);
            tile.rows = mine.plane_rows + row;
            tile.acc = mine.products + plane * mine.products_stride + row * panels.width;
            fetch_ahead(tile, panels, vectors, row / kernels.tile_rows, panels.bytes());
            kernel[rows - 1][vectors - 1](tile);
        }
    }
}

void write_panel(const KernelTable& kernels, const Conv2dArgs& a, const Panels& panels, std::size_t panel,
                 std::size_t first, std::size_t tiles, const ThreadScratch& mine) noexcept {
    const std::size_t column = panel * panels.width;
    WinogradOutput output{};
    output.compute = panels.compute;
    output.planes = mine.products;
    output.plane_stride = mine.products_stride;
    output.tile_stride = panels.width;
    output.first_tile = first;
    output.tiles = tiles;
    output.height = out_height(a);
    output.width = out_width(a);
    output.columns = std::min(panels.width, panels.columns - column);
    output.bias = a.bias == nullptr ? nullptr : a.bias + column;
    output.activation = a.activation;
    output.residual = at(a.residual, column);
    output.y = at(a.y, column);
    output.pixel_stride = a.out_channels;
    kernels.winograd_output(output);
}

void run_item(const KernelTable& kernels, const Conv2dArgs& a, const Plan& plan, std::size_t item,
              const std::byte* zeros, std::byte* scratch_base) noexcept {
    Scratch scratch(scratch_base);
    const ThreadScratch mine(scratch, a, plan.panels, plan.cut.tiles_per_item());
    const std::size_t first = plan.cut.first(item);
    const std::size_t tiles = plan.cut.first(item + 1) - first;
    const std::size_t row_bytes = a.in_channels * size_of(a.x.dtype);
    point_to_windows(a, first, first + tiles, zeros, mine);
    for (std::size_t tile = 0; tile < tiles; ++tile) mine.plane_rows[tile] = mine.planes + tile * row_bytes;
    kernels.winograd_input(
        {mine.window_rows, a.x.dtype, tiles, a.in_channels, mine.planes, mine.plane_bytes / size_of(a.x.dtype)});
    for (std::size_t panel = 0; panel < plan.panels.count; ++panel) {
        multiply_planes(kernels, plan.panels, a.weight, panel, tiles, mine);
        write_panel(kernels, a, plan.panels, panel, first, tiles, mine);
    }
}

}  // namespace

std::size_t winograd_scratch_bytes(const KernelTable& kernels, int threads, const Conv2dArgs& args) noexcept {
    const Plan plan(kernels, threads, args);
    return plan.zero_bytes + plan.thread_bytes * static_cast<std::size_t>(threads);
}

void run_winograd(const Execution& execution, const Conv2dArgs& args) noexcept {
    const KernelTable& kernels = *execution.kernels;
    const Plan plan(kernels, execution.pool->threads(), args);
    std::byte* zeros = execution.scratch;
    std::memset(zeros, 0, plan.zero_bytes);
    std::byte* first = zeros + plan.zero_bytes;
    execution.pool->parallel_for(plan.cut.items, [&](std::size_t item, int thread) {
        run_item(kernels, args, plan, item, zeros, first + static_cast<std::size_t>(thread) * plan.thread_bytes);
    });
}

}  // namespace lightwam::cpu
