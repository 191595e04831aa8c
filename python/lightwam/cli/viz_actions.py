# SPDX-License-Identifier: Apache-2.0
"""`lightwam viz actions`: predicted chunks beside recorded actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.terminal import table
from lightwam.viz.recordings import Recordings


@dataclass(frozen=True, kw_only=True)
class ActionsArgs(Recordings):
    """Draw the chunks that a policy predicts beside the recorded actions, by dimension and control step, with the error
    of each step of a chunk."""

    policy: Path
    """Engine file (*.lwam), run by the C++ runtime; or a checkpoint folder, run by PyTorch."""
    every: int = 1
    """Predict at every so many-th row of the recordings."""
    device: str = "cpu"
    """Where an engine runs: cpu, cuda or auto."""
    threads: int | None = None
    """CPU threads of an engine (default: one a core)."""


def main(arguments: ActionsArgs) -> int:
    """Draw and print the errors. Raises `LightWAMError`s."""
    from lightwam.viz.actions import show_actions

    figures = show_actions(arguments, arguments.policy, arguments.every, arguments.device, arguments.threads)
    rows = [
        (name, told["unit"], f"{told['by_step'][0]:.4f}", f"{told['executed_steps']:.4f}",
         f"{told['recorded_deviation']:.4f}")
        for name, told in figures["mean_absolute_error"].items()
    ]  # fmt: skip
    header = ("", "unit", "first step", f"first {figures['replan_steps']} steps", "deviation")
    print(table(header, rows, f"mean absolute error of {figures['chunks']} chunks, in the robot's units"))
    print(arguments.out)
    return 0
