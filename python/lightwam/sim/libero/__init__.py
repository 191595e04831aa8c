# SPDX-License-Identifier: Apache-2.0
"""LIBERO: environment, scripted expert, placements, recordings."""
