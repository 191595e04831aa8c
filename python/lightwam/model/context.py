# SPDX-License-Identifier: Apache-2.0
"""The context rows of a batch: equal ones become one that counts for all of them.

Shapes: B batch, L context rows, E text width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_equal_rows(context_BLE: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the equal rows at each sample's end, which are the zeroed rows past an instruction's text.

    Attention to n equal rows is attention to one of them whose score is larger by log(n), so the counts say as much as
    the rows that go. Rows are compared on their own device; on a GPU that waits for the answer. A data loader that
    merges on the CPU saves this, and the copy of three quarters of the rows.

    Args:
        context_BLE: the rows.
        mask_BL: boolean, True where a row may be attended to; or int64, how many equal rows each row stands for: then
            nothing is merged again. Nor is anything where the rows have a gradient: each then gets its own.

    Returns:
        rows [B, K, E], K = 1 + the largest number of rows before the equal ones, and counts int64 [B, K]: 0 where a row
        may not be attended to.
    """
    if mask_BL.dtype != torch.bool or context_BLE.requires_grad or not context_BLE.shape[1]:
        return context_BLE, mask_BL
    alike = (context_BLE == context_BLE[:, -1:]).all(dim=-1) & (mask_BL == mask_BL[:, -1:])
    merged_B = alike.flip(1).long().cumprod(dim=1).sum(dim=1)
    text_B1 = context_BLE.shape[1] - merged_B[:, None]
    kept = int(text_B1.max()) + 1
    row_K = torch.arange(kept, device=mask_BL.device)
    counts_BK = (row_K < text_B1).long() + (row_K == text_B1) * merged_B[:, None]
    return context_BLE[:, :kept], counts_BK * mask_BL[:, :kept]
