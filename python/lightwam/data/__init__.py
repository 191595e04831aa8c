# SPDX-License-Identifier: Apache-2.0
"""Data: LeRobot readers, windows, normalisers, images and caches."""
