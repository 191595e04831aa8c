# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the GPU path (docs/reference/launch-plan.md).

`ops/`: one kernel a file with its reference beside it. `targets.py`: the table of GPUs. `task.py`: what a kernel is run
on. `compiler/`: tasks to machine code. `interpreter/`: tasks on the CPU. `torch_launch.py`: tasks on PyTorch tensors.
`formats.py`: the one codec of bfloat16 and e4m3.


Knows nothing of the rest of lightwam: shapes and formats come in, tasks and machine code go out.
"""
