# SPDX-License-Identifier: Apache-2.0
"""A float engine -> an eight-bit engine: which layers, calibration, gates (docs/reference/quantization.md)."""
