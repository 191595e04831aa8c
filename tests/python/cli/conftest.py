# SPDX-License-Identifier: Apache-2.0
"""Triton is loaded before anything renders: its LLVM does not start beside that of LIBERO's software renderer."""

import triton  # noqa: F401
