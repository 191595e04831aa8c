# SPDX-License-Identifier: Apache-2.0
"""Graph -> launch plan (docs/reference/launch-plan.md): which kernel runs on which bytes, in which order.

`nodes` holds a program while fusions (`fuse_*`) rewrite it, `tasks` makes the kernels' tasks, `lower` puts a plan
together, `check` verifies it, `run` executes it without a GPU, `report` and `roofline` count it.
"""
