# SPDX-License-Identifier: Apache-2.0
"""The policy end to end: right actions, caches, threads, metadata."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers import runtime_reference
from helpers.engine_files import TASK, Engine, observation, small_engine, with_normed_in, write_engine
from lightwam.errors import DeviceError, EngineError, InstructionError, LightWAMError, PrecisionError
from lightwam.kernels.formats import bfloat16_bits
from lightwam.runtime import ActionChunk, Policy, _engine


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("bf16_weights", [True, False])
@pytest.mark.parametrize("text", [TASK, "Pick up the SOUP, élan!", "x"])
def test_actions_equal_the_reference(tmp_path: Path, images: bool, bf16_weights: bool, text: str) -> None:
    engine = small_engine(images=images, bf16_weights=bf16_weights)
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=1)
    policy.set_instruction(text)
    for seed in range(3):
        seen = observation(images, seed)
        chunk = policy.infer(seen)
        assert chunk.actions.dtype == np.float32 and chunk.actions.shape == (4, 3)
        assert relative_error(chunk.actions, runtime_reference.actions(engine, seen, text)) < 1e-5


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (64, 48), (1, 1), (128, 9)])
def test_images_of_any_size(policy: Policy, size: tuple[int, int]) -> None:
    seen = observation(size=size)
    expected = runtime_reference.actions(small_engine(), seen, TASK)
    assert relative_error(policy.infer(seen).actions, expected) < 1e-5


def test_images_of_any_strides(policy: Policy) -> None:
    seen = observation()
    expected = policy.infer(seen).actions
    wide = {name: np.repeat(image, 2, axis=1) for name, image in seen["images"].items()}
    views = {
        "agentview": wide["agentview"][:, ::2],
        "wrist": np.ascontiguousarray(seen["images"]["wrist"][::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    }
    assert not any(view.flags.c_contiguous for view in views.values())
    np.testing.assert_array_equal(policy.infer({**seen, "images": views}).actions, expected)
    channels_first = {name: np.moveaxis(np.moveaxis(i, 2, 0).copy(), 0, 2) for name, i in seen["images"].items()}
    np.testing.assert_array_equal(policy.infer({**seen, "images": channels_first}).actions, expected)


def test_state_of_float64_and_of_any_stride(policy: Policy) -> None:
    seen = observation()
    expected = policy.infer(seen).actions
    state = np.repeat(seen["state"].astype(np.float64), 3)[::3]
    np.testing.assert_array_equal(policy.infer({**seen, "state": state}).actions, expected)


def test_resize_plans_are_built_only_for_a_new_size(policy: Policy) -> None:
    built = lambda: policy._engine.resize_plans_built  # noqa: E731
    policy.infer(observation())
    assert built() == 2
    policy.infer(observation(seed=9))
    assert built() == 2
    seen = observation()
    seen["images"]["wrist"] = observation(size=(20, 20))["images"]["wrist"]
    policy.infer(seen)
    assert built() == 3


def test_a_known_instruction_is_computed_once(policy: Policy) -> None:
    seen = observation()
    first = policy.infer(seen).actions
    assert policy._engine.instruction_computations == 1
    policy.set_instruction("open the drawer")
    other = policy.infer(seen).actions
    assert policy._engine.instruction_computations == 2
    assert np.abs(first - other).max() > 1e-3
    for _ in range(3):
        policy.set_instruction(TASK)
        np.testing.assert_array_equal(policy.infer(seen).actions, first)
        policy.set_instruction("open the drawer")
        np.testing.assert_array_equal(policy.infer(seen).actions, other)
    assert policy._engine.instruction_computations == 2


def test_the_instruction_cache_is_bounded(policy: Policy) -> None:
    for i in range(40):
        policy.set_instruction(f"word{i}")
    seen = observation()
    last = policy.infer(seen).actions
    policy.set_instruction(TASK)  # has left the cache meanwhile
    assert policy._engine.instruction_computations == 42
    policy.set_instruction("word39")
    assert policy._engine.instruction_computations == 42
    np.testing.assert_array_equal(policy.infer(seen).actions, last)


def test_an_unknown_instruction_needs_a_text_encoder(tmp_path: Path) -> None:
    policy = Policy(write_engine(tmp_path / "e.lwam", small_engine(text_encoder=False)))
    with pytest.raises(InstructionError, match=f"'open the drawer' is unknown .* it knows '{TASK}'"):
        policy.set_instruction("open the drawer")
    with pytest.raises(InstructionError, match="no instruction is set"):
        policy.infer(observation())
    policy.set_instruction(TASK)
    with pytest.raises(InstructionError):
        policy.set_instruction("open the drawer")
    assert policy.instruction == TASK
    policy.infer(observation())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no word"),
        (" ,.;! ", "holds no word"),
        ("a b c d e f g", "7 words; this engine takes at most 6"),
        ("\ud800", "not valid text"),
        (5, "a int; expected a string"),
        (None, "expected a string"),
        (b"bytes", "expected a string"),
    ],
)
def test_text_that_is_no_instruction(policy: Policy, text: object, message: str) -> None:
    before = policy.infer(observation()).actions
    with pytest.raises(InstructionError, match=message):
        policy.set_instruction(text)  # type: ignore[arg-type]
    assert policy.instruction == TASK
    np.testing.assert_array_equal(policy.infer(observation()).actions, before)


def test_the_prompt_template_is_applied(tmp_path: Path) -> None:
    engine = small_engine()
    engine.document["policy"]["prompt_template"] = "Task: {task}!"
    templated = Policy(write_engine(tmp_path / "a.lwam", engine), threads=1)
    plain = Policy(write_engine(tmp_path / "b.lwam", small_engine()), threads=1)
    templated.set_instruction("open it")
    plain.set_instruction("task open it")
    np.testing.assert_array_equal(templated.infer(observation()).actions, plain.infer(observation()).actions)


def test_any_number_of_threads_gives_the_same_bits(engine_path: Path) -> None:
    results = []
    for threads in (1, 2, 3):
        policy = Policy(engine_path, threads=threads)
        policy.set_instruction(TASK)
        results.append(policy.infer(observation(size=(97, 61))).actions)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_calls_from_several_threads(policy: Policy) -> None:
    seen = [observation(seed=seed) for seed in range(4)]
    expected = [policy.infer(o).actions for o in seen]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(50):
            if not np.array_equal(policy.infer(seen[index]).actions, expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_action_chunk(policy: Policy) -> None:
    chunk = policy.infer(observation())
    assert isinstance(chunk, ActionChunk) and chunk.replan_steps == policy.replan_steps == 2
    assert list(chunk.timings) == ["preprocess", "vae", "backbone", "expert", "postprocess", "total"]
    assert all(seconds >= 0 for seconds in chunk.timings.values())
    assert chunk.timings["total"] >= sum(chunk.timings.values()) - chunk.timings["total"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunk.replan_steps = 3  # type: ignore[misc]
    kept = chunk.actions.copy()
    policy.infer(observation(seed=8))
    np.testing.assert_array_equal(chunk.actions, kept)


def test_metadata(policy: Policy) -> None:
    assert policy.metadata["name"] == "small"
    assert policy.metadata["policy"]["horizon"] == 4
    assert "programs" not in policy.metadata
    assert policy.instructions == (TASK,)


def test_reset_keeps_the_instruction(policy: Policy) -> None:
    policy.reset()
    assert policy.instruction == TASK
    policy.infer(observation())


def test_one_line_says_what_runs_and_why(engine_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lightwam.runtime"):
        Policy(engine_path, device="auto", threads=1)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(lines) == 1
    for part in ("'small'", "CPU", "'auto'", "kernels", "1 thread (as requested)", "f32 products"):
        assert part in lines[0]


def bf16_engine() -> Engine:
    engine = small_engine(images=False, bf16_weights=True)
    engine.document["precision"] = "bf16"
    engine.value("canvas")["dtype"] = "bf16"
    return with_normed_in(engine, "bf16")


def test_bf16_arithmetic_is_near_the_reference(tmp_path: Path) -> None:
    engine = bf16_engine()
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=1)
    policy.set_instruction(TASK)
    seen = observation(images=False)
    expected = runtime_reference.actions(engine, seen, TASK)
    assert relative_error(policy.infer(seen).actions, expected) < 2e-2
    assert "bf16 products" in policy.execution_info


def test_f16_is_widened_and_said_aloud(tmp_path: Path) -> None:
    """Every value's bytes are doubled; f32 holds every f16."""
    plain = small_engine(images=False)
    plain.tensors["query.weight"] = plain.tensors["query.weight"].astype(np.float16).astype(np.float32)
    engine = with_normed_in(small_engine(images=False), "f16")
    engine.document["precision"] = "f16"
    engine.tensors["query.weight"] = plain.tensors["query.weight"].astype(np.float16)
    seen, chunks = observation(images=False), []
    for each in (plain, engine):
        policy = Policy(write_engine(tmp_path / "e.lwam", each), threads=1)
        policy.set_instruction(TASK)
        chunks.append(policy.infer(seen).actions)
    assert "f32 products (its f16 weights and values widened to f32" in policy.execution_info
    assert policy.metadata["precision"] == "f16"
    np.testing.assert_array_equal(*chunks)  # nothing was rounded to f16


def test_every_instruction_set_gives_the_same_actions(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "e.lwam", small_engine(images=False))
    seen = observation(images=False)
    expected = runtime_reference.actions(small_engine(images=False), seen, TASK)
    levels = ["portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"]
    best = _engine.Policy(os.fsencode(path), "cpu", 1, "auto").instruction_set
    for level in levels[: levels.index(best) + 1]:
        try:
            engine = _engine.Policy(os.fsencode(path), "cpu", 1, "auto", level)
        except DeviceError:  # a processor may have AVX-512 without the VNNI of 256 bits
            assert level.endswith("_vnni") and level != best
            continue
        engine.set_instruction(TASK)
        actions, seconds = np.empty((4, 3), np.float32), np.empty(7)
        engine.infer({}, seen["latents"], seen["state"], actions, seconds)
        assert relative_error(actions, expected) < 1e-5
        assert f"{level} kernels (as requested)" in engine.execution_info
    for level in [*levels[levels.index(best) + 1 :], "sse9"]:
        with pytest.raises(DeviceError, match=f"instruction set '{level}'"):
            _engine.Policy(os.fsencode(path), "cpu", 1, "auto", level)


def test_bf16_without_bf16_instructions_is_said_aloud(tmp_path: Path) -> None:
    bf16 = os.fsencode(write_engine(tmp_path / "bf16.lwam", bf16_engine()))
    f32 = os.fsencode(write_engine(tmp_path / "f32.lwam", small_engine()))
    assert "widens its bf16 products to f32" in _engine.Policy(bf16, "cpu", 1, "auto", "portable").warning
    assert _engine.Policy(f32, "cpu", 1, "auto", "portable").warning == ""


@pytest.mark.parametrize("device", ["tpu", ""])
def test_unknown_devices(engine_path: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="expected 'cpu', 'cuda' or 'auto'"):
        Policy(engine_path, device=device)


def test_no_gpu_for_an_engine_without_machine_code(engine_path: Path) -> None:
    with pytest.raises(DeviceError, match="'small' has no machine code for a GPU; make it with 'lightwam compile'"):
        Policy(engine_path, device="cuda")
    assert "runs on the CPU" in Policy(engine_path, device="auto").execution_info


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 10**6, 2**40])
def test_unusable_thread_counts(engine_path: Path, threads: object) -> None:
    with pytest.raises(DeviceError, match="threads is"):
        Policy(engine_path, threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "message"), [("bf16", "export it again with --precision bf16"), ("f8", "unknown")]
)
def test_another_precision_is_refused(engine_path: Path, precision: str, message: str) -> None:
    with pytest.raises(PrecisionError, match=message):
        Policy(engine_path, precision=precision)
    assert Policy(engine_path, precision="f32").metadata["precision"] == "f32"


def test_actions_that_are_not_finite_never_leave(tmp_path: Path) -> None:
    engine = small_engine()
    engine.tensors["state.weight"] = np.full_like(engine.tensors["state.weight"], 3e38)
    policy = Policy(write_engine(tmp_path / "e.lwam", engine))
    policy.set_instruction(TASK)
    seen = observation()
    seen["state"][:] = 100.0
    with pytest.raises(EngineError, match=r"computed the action \[0, 0\] as .*(inf|nan)"):
        policy.infer(seen)
    seen["state"][:] = 0.0
    assert np.isfinite(policy.infer(seen).actions).all()


def test_every_error_is_a_lightwam_error() -> None:
    with pytest.raises(LightWAMError):
        Policy("/nonexistent.lwam")


def test_two_policies_do_not_disturb_each_other(tmp_path: Path) -> None:
    engine = small_engine()
    other = small_engine()
    other.tensors["action.bias"] = other.tensors["action.bias"] + np.float32(1.0)
    a = Policy(write_engine(tmp_path / "a.lwam", engine))
    b = Policy(write_engine(tmp_path / "b.lwam", other))
    a.set_instruction(TASK)
    b.set_instruction(TASK)
    seen = observation()
    first = a.infer(seen).actions
    b.infer(seen)
    np.testing.assert_array_equal(a.infer(seen).actions, first)


def test_known_instruction_in_bf16(tmp_path: Path) -> None:
    engine = small_engine()
    engine.tensors["instruction.0"] = bfloat16_bits(engine.tensors["instruction.0"])
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=1)
    policy.set_instruction(TASK)
    seen = observation()
    assert relative_error(policy.infer(seen).actions, runtime_reference.actions(engine, seen, TASK)) < 1e-5
