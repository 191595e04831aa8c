# SPDX-License-Identifier: Apache-2.0
"""The simulators that `--sim` knows: one line each, imported when it is used."""

from __future__ import annotations

import importlib

from lightwam.errors import ConfigError
from lightwam.sim.env import Simulator

SIMULATORS = {  # name -> module:class of the `Simulator`
    "libero": "lightwam.sim.libero.simulator:Libero",
}


def load_simulator(name: str) -> Simulator:
    """The simulator `name`, or the class of somebody's own as `module:Class`. Raises ConfigError for an unknown one."""
    module, _, attribute = SIMULATORS.get(name, name).partition(":")
    if not attribute:
        raise ConfigError(f"unknown simulator {name!r}: choose {', '.join(SIMULATORS)}, or name your own module:Class")
    try:
        simulator: Simulator = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # the module may be anybody's
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"simulator {name!r} cannot be made ({reason}): check --sim, PYTHONPATH, its class"
        ) from error
    return simulator
