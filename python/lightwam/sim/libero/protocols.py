# SPDX-License-Identifier: Apache-2.0
"""LIBERO's evaluation protocols: a row each, its values those of the evaluation named as the source."""

from __future__ import annotations

from lightwam.sim.env import EvaluationProtocol
from lightwam.sim.libero.env import SUITES


def _protocol(
    name: str, trials: int, settle: int, replan: int | None, seed: int, limits: tuple[int, ...], source: str,
    states: str = "official",
) -> EvaluationProtocol:  # fmt: skip
    """A protocol with its step limits in the order of `SUITES`; suites derived from one (`_swap`, ...) have its."""
    return EvaluationProtocol(
        name, trials, settle, replan, dict(zip(SUITES, limits, strict=True)), seed, states, source
    )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (  # name, trials, settling steps, executed of a chunk, seed, limits of spatial object goal 10 90
        _protocol("paper", 50, 30, 10, 42, (400, 400, 400, 700, 700), "the published evaluation of Light-WAM"),
        _protocol("openpi", 50, 10, 5, 7, (220, 280, 300, 520, 400), "openpi, examples/libero"),
        _protocol("lerobot", 10, 10, None, 0, (280, 280, 300, 520, 400), "LeRobot, lerobot-eval"),
        _protocol(
            "shifted", 20, 30, 10, 42, (400, 400, 400, 700, 700), "ours: as paper, from shifted states", "shifted"
        ),
    )
}
