# SPDX-License-Identifier: Apache-2.0
"""Graph -> launch plan (docs/reference/launch-plan.md): which kernel runs on which bytes, in which order.

`nodes` holds a program while fusions (`fuse_*`) rewrite it, `tasks` makes the kernels' tasks, `lower` puts a plan
together, `verify` verifies it, `compile` adds machine code, `report`, `roofline` and `prediction` count it. One file,
one switch each: `side` (launches beside others), `cache` (a model of the GPU's cache).
"""

from lightwam.errors import ConfigError


def require_triton(what: str) -> None:
    """Raise `ConfigError`, with what to install, where Triton is not there: the kernels are written in it."""
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what}: the module {error.name!r} is not installed: pip install 'lightwam[gpu]'") from None
