# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the GPU path, one kernel a file with its reference beside it (docs/reference/launch-plan.md).

Knows nothing of the rest of lightwam: shapes and formats come in, tasks and machine code go out.
"""
