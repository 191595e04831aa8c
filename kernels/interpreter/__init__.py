# SPDX-License-Identifier: Apache-2.0
"""Tasks on the CPU by Triton's interpreter, patched where it computes wrongly, beside their references."""
