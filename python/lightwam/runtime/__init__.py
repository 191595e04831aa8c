# SPDX-License-Identifier: Apache-2.0
"""Runs engine files (`*.lwam`) through the C++ runtime. Needs NumPy and the extension, never PyTorch."""

from lightwam.runtime.chunk import ActionChunk, ChunkExecutor
from lightwam.runtime.observation import Observation
from lightwam.runtime.policy import Policy
from lightwam.runtime.tuning import TaskTiming, Tuning, read_tunings, tuning_path, write_tuning

__all__ = [
    "ActionChunk",
    "ChunkExecutor",
    "Observation",
    "Policy",
    "TaskTiming",
    "Tuning",
    "read_tunings",
    "tuning_path",
    "write_tuning",
]
