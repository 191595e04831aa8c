# SPDX-License-Identifier: Apache-2.0
"""Latency of engines: the measurement, the one JSON schema of speed figures, the table and the picture."""
