# SPDX-License-Identifier: Apache-2.0
"""One thread: the tests share the machine."""

import torch

torch.set_num_threads(1)
