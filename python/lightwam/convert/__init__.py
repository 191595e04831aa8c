# SPDX-License-Identifier: Apache-2.0
"""Released checkpoints into checkpoint folders of our own: `lightwam convert` (docs/reference/checkpoints.md)."""
