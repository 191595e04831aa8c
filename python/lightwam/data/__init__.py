# SPDX-License-Identifier: Apache-2.0
"""Data: readers of every format, windows, samples, statistics, normalisers, images and caches."""
