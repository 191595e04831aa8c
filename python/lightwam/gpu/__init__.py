# SPDX-License-Identifier: Apache-2.0
"""Graph -> launch plan (docs/reference/launch-plan.md): which kernel runs on which bytes, in which order.

`nodes` holds a program while fusions (`fuse_*`) rewrite it, `tasks` makes the kernels' tasks, `lower` puts a plan
together, `verify` verifies it, `compile` adds machine code, `report` and `roofline` count it. Each in one
file: `side` (launches beside others), `cache` (a model of the GPU's cache).
"""
