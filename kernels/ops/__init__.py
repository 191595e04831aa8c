# SPDX-License-Identifier: Apache-2.0
"""Triton kernels, one a file with its float64 reference beside it, and what several of them share inside."""
