# SPDX-License-Identifier: Apache-2.0
"""Tasks to machine code, ahead of time: no GPU, no driver, no CUDA toolkit."""
