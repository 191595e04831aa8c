# SPDX-License-Identifier: Apache-2.0
"""Whole engines: C++ runtime, interpreter and PyTorch, on the golden policies and on nano from images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.exported import nano_policy
from helpers.golden import golden_policy
from lightwam.engine.file import read_engine
from lightwam.engine.images import compose_canvas
from lightwam.engine.interpret import Interpreter, instruction_context
from lightwam.export import export_engine
from lightwam.export.policy import policy_section
from lightwam.runtime import Policy

#: Of matmuls, weights (None: the same), and residual streams.
FORMATS = [
    ("f32", None, "f32"),
    ("f32", "bf16", "f32"),
    ("bf16", None, "f32"),
    ("bf16", None, "f16"),
    ("f16", None, "f32"),
]
SENTENCE = "Pick up the alphabet-soup, place it in the basket!"


def _relative(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def _cosine(a: Any, b: Any) -> float:
    x, y = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def _assert_close(made: Any, wanted: Any, exact: bool) -> None:
    """The project's limits: 1e-4 relative with float32 weights, cosine 0.9995 otherwise."""
    if exact:
        assert _relative(made, wanted) <= 1e-4
    assert _cosine(made, wanted) >= 0.9995


@pytest.mark.parametrize(("precision", "weight_dtype", "stream_dtype"), FORMATS)
@pytest.mark.parametrize("cross_output", ["folded", "projected"])
@pytest.mark.parametrize("name", ["golden_set1", "golden_set3"])
def test_golden_policies(
    name: str, cross_output: Any, precision: Any, weight_dtype: Any, stream_dtype: Any, tmp_path: Path
) -> None:
    """From latents; the published actions are normalised ones, so there is no gripper rule."""
    golden = golden_policy(name)
    tensors, context = golden.tensors, golden.tensors["in.context"]
    latents = tensors["in.latents"]
    engine = tmp_path / "golden.lwam"
    export_engine(
        golden.model, engine, start_at="latents", latent_shape=golden.latent_shape, context_rows=golden.context_rows,
        instructions={str(i): rows for i, rows in enumerate(context)}, precision=precision, weight_dtype=weight_dtype,
        stream_dtype=stream_dtype, cross_output=cross_output,
    )  # fmt: skip
    policy = Policy(engine)
    interpreter = Interpreter(read_engine(engine))
    exact = precision == "f32" and weight_dtype is None
    for index in range(latents.shape[0]):
        observation = {"latents": latents[index, :, 0].numpy(), "state": tensors["in.proprio"][index].numpy()}
        policy.set_instruction(str(index))
        made = policy.infer(observation).actions
        _assert_close(made, tensors["out.action"][index], exact)
        interpreter.set_instruction(context[index].numpy())
        interpreted = interpreter.act(observation["state"], observation["latents"])
        _assert_close(made, interpreted, precision == "f32")


def _statistics() -> dict[str, Any]:
    rng = np.random.default_rng(2)

    def field(width: int) -> dict[str, Any]:
        low = rng.uniform(-1, 0, width)
        numbers = {"min": low, "max": low + 1, "mean": low, "std": low + 2, "q01": low, "q99": low + 1}
        return {f"{kind}_{name}": x.tolist() for kind in ("global", "stepwise") for name, x in numbers.items()}

    return {"state": {"default": field(8)}, "action": {"default": field(7)}}


@dataclass(frozen=True)
class _NanoAnswer:
    """An observation of nano, and the chunk that the PyTorch model makes of it, in robot units before the rule."""

    images: dict[str, Any]
    state: Any
    actions: Any


@pytest.fixture(scope="module")
def nano_answer() -> _NanoAnswer:
    from lightwam.data.normalize import normalizers

    model, vae, text = nano_policy()
    rng, (state_units, action_units) = np.random.default_rng(0), normalizers(model.config, _statistics())
    images = {camera.name: rng.integers(0, 256, (200, 256, 3), np.uint8) for camera in model.config.cameras.cameras}
    state = rng.uniform(-1, 1, 8).astype(np.float32)
    section = policy_section(model.config, "images", (1, 1, 1), 1, None, None)
    canvas = torch.as_tensor(compose_canvas(images, section), dtype=torch.float32)
    proprio = torch.as_tensor(state_units.forward(state))[None]
    with torch.no_grad():
        latents = vae.encode(canvas.permute(2, 0, 1)[None, :, None])
        context, mask = text([SENTENCE])
        chunk = model.predict_actions(latents, context, mask, proprio)[0].numpy()
    return _NanoAnswer(images, state, action_units.backward(chunk))


@pytest.mark.parametrize(("precision", "weight_dtype", "stream_dtype"), FORMATS)
def test_nano_from_images(
    precision: Any, weight_dtype: Any, stream_dtype: Any, nano_answer: _NanoAnswer, tmp_path: Path
) -> None:
    """Pixels and a sentence to robot actions: three implementations, one answer."""
    model, vae, text = nano_policy()
    engine = tmp_path / "nano.lwam"
    export_engine(
        model, engine, vae=vae, text_encoder=text, normalizer=_statistics(), precision=precision,
        weight_dtype=weight_dtype, stream_dtype=stream_dtype, parity_seeds=(),
    )  # fmt: skip
    policy, interpreter = Policy(engine), Interpreter(read_engine(engine))
    images, state, wanted = nano_answer.images, nano_answer.state, nano_answer.actions
    policy.set_instruction(SENTENCE)
    made = policy.infer({"images": images, "state": state}).actions
    interpreter.set_instruction(instruction_context(interpreter.graph, SENTENCE))
    interpreted = interpreter.act(state, images=images)
    exact = precision == "f32" and weight_dtype is None
    _assert_close(made[:, :6], wanted[:, :6], exact)
    _assert_close(made[:, :6], interpreted[:, :6], precision == "f32")
    sure = np.abs(wanted[:, 6] - 0.5) > 0.02
    np.testing.assert_array_equal(made[sure, 6], np.sign(1 - 2 * wanted[sure, 6]))
    np.testing.assert_array_equal(interpreted[sure, 6], made[sure, 6])


def test_unfinished_words_hash_alike_everywhere(tmp_path: Path) -> None:
    """The same context rows from the model's encoder and from the engine's tables, for odd sentences too."""
    model, vae, text = nano_policy()
    engine = tmp_path / "nano.lwam"
    export_engine(model, engine, vae=vae, text_encoder=text, parity_seeds=())
    graph = read_engine(engine)
    policy = Policy(engine)
    images = {camera.name: np.full((128, 128, 3), 77, np.uint8) for camera in model.config.cameras.cameras}
    interpreter = Interpreter(graph)
    for sentence in ("a", SENTENCE, "  ÄPFEL   to Öl 3.5 ", "x_y-z'w"):
        rows = instruction_context(graph, sentence)
        with torch.no_grad():
            np.testing.assert_allclose(rows, text([sentence]).rows[0, : len(rows)].numpy(), rtol=1e-6)
        interpreter.set_instruction(rows)
        policy.set_instruction(sentence)
        made = policy.infer({"images": images, "state": np.zeros(8)}).actions
        assert _relative(made[:, :6], interpreter.act(np.zeros(8), images=images)[:, :6]) < 1e-4
