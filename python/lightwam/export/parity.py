# SPDX-License-Identifier: Apache-2.0
"""The export's own parity: the folded graph in the interpreter beside the PyTorch model, on random inputs.

What is compared is the chunk before it is turned into robot units (that step, and the gripper rule, are the graph's
definition). The inputs' seeds are stored, so the figures can be made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Graph
from lightwam.engine.images import compose_canvas
from lightwam.engine.inputs import random_state, random_view
from lightwam.engine.interpret import Interpreter
from lightwam.errors import ExportError
from lightwam.export.options import ExportOptions
from lightwam.export.policy import Normalization

#: Name of the value that holds the chunk, still normalised.
CHUNK = "expert.actions"
MAX_RELATIVE_ERROR = 1e-4
MIN_COSINE = 0.9995


@dataclass(frozen=True)
class Parity:
    """Worst case over the seeds. `relative_error` is max |a - b| / max |b|; `limit` says what had to hold."""

    seeds: tuple[int, ...]
    relative_error: float
    cosine: float
    limit: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seeds": list(self.seeds), "reference": "PyTorch model, float32, unfolded"}


class Sample(NamedTuple):
    """One random input. `proprio` is the normalised, clamped state; context rows past the text are zero."""

    state: Array
    proprio: Array
    context: Array
    rows: int
    latents: Array | None = None
    images: dict[str, Array] | None = None


def random_sample(graph: Graph, units: Normalization, seed: int) -> Sample:
    """A random state, a few context rows, images or latents of noise."""
    policy, rng = graph.policy, np.random.default_rng(seed)
    state = random_state(policy, rng)
    rows = int(rng.integers(1, policy["context_rows"] + 1))
    context = np.zeros((policy["context_rows"], policy["text_width"]), np.float32)
    context[:rows] = rng.standard_normal((rows, policy["text_width"]))
    scale, offset = (part.astype(np.float32) for part in (units.state_scale, units.state_offset))
    proprio = np.clip(state * scale + offset, -units.clamp, units.clamp).astype(np.float32)
    return Sample(state, proprio, context, rows, **random_view(policy, rng, (96, 128)))


Encode = Callable[[Tensor], Tensor]
"""Canvas [1, 3, 1, H, W] -> normalised latents [1, Z, 1, h, w]."""


@torch.no_grad()
def reference_chunk(model: Any, encode: Encode | None, graph: Graph, sample: Sample) -> Array:
    """The PyTorch model's chunk [H, A], normalised."""
    if sample.images is None:
        latents = torch.as_tensor(sample.latents)[None, :, None]
    else:
        if encode is None:
            raise ExportError("vae is None: an engine that starts at images needs the VAE, or start_at='latents'")
        canvas = torch.as_tensor(compose_canvas(sample.images, graph.policy), dtype=torch.float32)
        latents = encode(canvas.permute(2, 0, 1)[None, :, None])
    weight = next(model.parameters())
    wide = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32)}
    context, proprio = (torch.as_tensor(x).to(**wide) for x in (sample.context[None], sample.proprio[None]))
    training = model.training
    model.eval()  # dropout would make the reference a random one
    chunk = model.predict_actions(latents.to(**wide), context, None, proprio)
    model.train(training)
    return np.asarray(chunk[0].double().cpu())


def measure_parity(
    graph: Graph,
    model: Any,
    encode: Encode | None,
    units: Normalization,
    options: ExportOptions,
    on_seed: Callable[[int], None],
) -> Parity:
    """Compare on one sample a seed. With float32 weights 1e-4 relative must hold, else cosine 0.9995.

    `on_seed` is called with 1 after each seed. Raises `ExportError` when the limit is broken.
    """
    seeds, exact = options.parity_seeds, options.precision == "f32" and options.weight_dtype in (None, "f32")
    interpreter = Interpreter(graph, kept=frozenset({CHUNK}))
    errors, cosines = [], []
    for seed in seeds:
        sample = random_sample(graph, units, seed)
        interpreter.set_instruction(sample.context[: sample.rows])
        interpreter.act(sample.state, sample.latents, sample.images)
        made = np.asarray(interpreter.trace[CHUNK]).ravel()
        expected = reference_chunk(model, encode, graph, sample).ravel()
        errors.append(float(np.abs(made - expected).max() / np.abs(expected).max()))
        cosines.append(float(made @ expected / (np.linalg.norm(made) * np.linalg.norm(expected))))
        on_seed(1)
    limit = f"relative error <= {MAX_RELATIVE_ERROR}" if exact else f"cosine >= {MIN_COSINE}"
    parity = Parity(seeds, max(errors), min(cosines), limit)
    good = parity.relative_error <= MAX_RELATIVE_ERROR if exact else parity.cosine >= MIN_COSINE
    if not good:
        raise ExportError(
            f"parity of the folded graph is relative error {parity.relative_error:.3g}, cosine {parity.cosine:.6f} "
            f"(limit: {limit}): use precision 'f32', or report this configuration"
        )
    return parity
