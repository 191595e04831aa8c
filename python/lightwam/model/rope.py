# SPDX-License-Identifier: Apache-2.0
"""3-D rotary positions: a head's channel pairs are split among frame, row and column."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RotaryTable(NamedTuple):
    """cos and sin of every token's angles, each [S, head_dim / 2]."""

    cos: Tensor
    sin: Tensor

    def from_token(self, first: int) -> RotaryTable:
        """Of the tokens from `first` on."""
        return RotaryTable(self.cos[first:], self.sin[first:])


def rope_table(
    grid: tuple[int, int, int], head_dim: int, theta: float, device: torch.device | None = None
) -> RotaryTable:
    """Angles of tokens ordered frame, row, column, in float64.

    Args:
        grid: (frames, rows, columns) of tokens.
        head_dim: split into d - 2 * (d // 3) channels for the frame, d // 3 for the row, d // 3 for the column.
        theta: base of the frequencies theta^(-2i / channels).
    """
    third = head_dim // 3
    angles = []
    for axis, channels in enumerate((head_dim - 2 * third, third, third)):
        pair = torch.arange(0, channels, 2, dtype=torch.float64, device=device)
        position = torch.arange(grid[axis], dtype=torch.float64, device=device)
        along = torch.outer(position, theta ** (-pair / channels))
        shape = [1, 1, 1, channels // 2]
        shape[axis] = grid[axis]
        angles.append(along.reshape(shape).expand(*grid, channels // 2))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    return RotaryTable(table.cos(), table.sin())


def apply_rope(x_BSE: Tensor, rope: RotaryTable, num_heads: int) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i + 1) of every head, in at least float32; the result has x's type."""
    wide = torch.promote_types(x_BSE.dtype, torch.float32)
    batch, tokens, width = x_BSE.shape
    even, odd = x_BSE.to(wide).reshape(batch, tokens, num_heads, -1, 2).unbind(-1)
    cos, sin = (part.to(wide)[:, None, :] for part in rope)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.reshape(batch, tokens, width).to(x_BSE.dtype)
