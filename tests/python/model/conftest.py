# SPDX-License-Identifier: Apache-2.0
"""One thread: the tests share the machine."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
