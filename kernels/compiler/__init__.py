# SPDX-License-Identifier: Apache-2.0
"""Tasks to machine code, ahead of time: no GPU, no driver, no CUDA toolkit.

`tasks.py`: `Compiler`, every tactic of every task. `variant.py`: one of them. `worker.py`: the processes that compile.
`cache.py`: machine code kept on disk.
"""
