# SPDX-License-Identifier: Apache-2.0
"""What the cases leave out: values that are not finite, frames beside the exporter's canvas, tasks that are errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from helpers.kernel_runs import run_arrays
from lightwam.engine.images import compose_canvas
from lightwam.kernels.ops import affine, conv2d, elementwise, preprocess_images, quantize_rows, row_norm
from lightwam.kernels.ops.preprocess_images import Camera
from lightwam.kernels.targets import TARGETS
from lightwam.kernels.task import Task

NAN, INFINITY = float("nan"), float("inf")


def test_not_a_number_passes_clamps_and_the_gripper_rule() -> None:
    task = affine.task(1, 5, x="f32", y="f32", minimum=[-1.0], maximum=[1.0], gripper_column=4)
    x = np.array([[NAN, -INFINITY, INFINITY, 0.5, NAN]], np.float32)
    arrays = {"x": x, "scale0": np.ones(5, np.float32), "shift0": np.zeros(5, np.float32)}
    y = run_arrays(task, affine.tactics(task, "interpreter")[0], arrays)["y"]
    np.testing.assert_array_equal(y, [[NAN, -1.0, 1.0, 0.5, NAN]])


def test_the_gripper_rule_has_three_values() -> None:
    task = affine.task(3, 1, x="f32", y="f32", steps=0, gripper_column=0)
    x = np.array([[0.0], [0.5], [1.0]], np.float32)
    y = run_arrays(task, affine.tactics(task, "interpreter")[0], {"x": x})["y"]
    np.testing.assert_array_equal(y, [[1.0], [0.0], [-1.0]])


@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("norm", [False, True])
def test_a_row_with_a_value_not_finite_has_a_scale_not_finite(bad: float, norm: bool) -> None:
    """Section 4.1 of docs/reference/engine-format.md; other rows are as without it."""
    task = quantize_rows.task(3, 40, x="f32")
    tactic = quantize_rows.tactics(task, "interpreter")[0]
    if norm:
        task = row_norm.task(3, 40, kind="layer", x="f32", y="i8", eps=1e-6)
    x = np.random.default_rng(3).standard_normal((3, 40)).astype(np.float32)
    clean = run_arrays(task, tactic, {"x": x.reshape(task.arguments[0].shape or ())})
    x[1, 17] = bad
    result = run_arrays(task, tactic, {"x": x.reshape(task.arguments[0].shape or ())})
    assert np.isfinite(result["scale"]).reshape(-1).tolist() == [True, False, True]
    for name, array in result.items():
        rows = array.reshape(3, -1)[[0, 2]]
        np.testing.assert_array_equal(rows, clean[name].reshape(3, -1)[[0, 2]])


def test_a_row_of_zeros_and_one_of_tiny_numbers_have_scale_one() -> None:
    task = quantize_rows.task(2, 8, x="f32")
    x = np.zeros((2, 8), np.float32)
    x[1] = np.float32(1e-40)
    result = run_arrays(task, quantize_rows.tactics(task, "interpreter")[0], {"x": x})
    np.testing.assert_array_equal(result["scale"], [1.0, 1.0])
    np.testing.assert_array_equal(result["zero"], [-128, -128])
    np.testing.assert_array_equal(result["y"], np.full((2, 8), -128))


@pytest.mark.parametrize("sizes", [((64, 48), (24, 20)), ((20, 31), (90, 7)), ((1, 9), (33, 2))])
def test_frames_of_any_size_are_the_exporters_canvas(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Weights are whole numbers up to one division: 1e-6 of the range of the pixels covers the f32 sums."""
    generator = np.random.default_rng(5)
    cameras = [Camera(0, 0, 20, 16, rotate_180=True), Camera(0, 16, 20, 12)]
    task = preprocess_images.task(cameras, (20, 28), y="f32")
    frames = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    arrays = {"frame0": frames[0], "frame1": frames[1], "frame_sizes": np.array(sizes, np.int32)}
    y = run_arrays(task, preprocess_images.tactics(task, "interpreter")[0], arrays)["y"]
    policy = {
        "canvas": [20, 28],
        "cameras": [
            {"name": str(i), "rect": [c.top, c.left, c.height, c.width], "rotate_180": c.rotate_180}
            for i, c in enumerate(cameras)
        ],
    }
    expected = compose_canvas({"0": frames[0], "1": frames[1]}, policy)
    np.testing.assert_allclose(y, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: elementwise.task("add", 3, [4, 5], x=["f32", "f32"], y="f32"), "it needs two of one width"),
        (lambda: elementwise.task("concat", 3, [1] * 5, x=["f32"] * 5, y="f32"), "up to 4 of both"),
        (lambda: elementwise.task("concat", 3, [4], x=["f32"], y="f32", source_rows=[1]), "each needs 3"),
        (lambda: row_norm.task(1, 40000, kind="rms", x="f32", y="f32", eps=1e-6), "rows of 40000 elements"),
        (lambda: quantize_rows.task(1, 40000, x="f32"), "rows of 40000 elements"),
        (lambda: affine.task(1, 8, x="f32", y="f32", steps=3), "up to 2, one minimum for each"),
        (lambda: affine.task(1, 8, x="f32", y="f32", gripper_column=8), "gripper column 8 of 8 columns"),
        (lambda: conv2d.task(8, 8, 4, 300, x="f32", weight="f32", y="f32", norm="rms", z="f32"), "one tile holds 256"),
        (lambda: conv2d.task(8, 8, 4, 8, x="bf16", weight="f32", y="f32"), "x bf16 with weight f32"),
        (lambda: conv2d.task(2, 2, 4, 8, x="f32", weight="f32", y="f32"), "nothing to compute"),
        (lambda: conv2d.task(8, 8, 4, 8, x="f32", weight="f32", y=None), "y is written without one"),
        (lambda: preprocess_images.task([], (4, 4), y="f32"), "0 cameras; a launch takes 1 to 8"),
        (
            lambda: preprocess_images.task([preprocess_images.Camera(0, 0, 9, 16385)], (9, 16385), y="f32"),
            r"canvas \[9, 16385\]; rows and columns are at most 16384",
        ),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(make: Callable[[], Task], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
def test_convolution_tactics_fit_their_target(target: str) -> None:
    """Published sizes: some tactic, tiles of all channels under a norm, no channel computed in vain."""
    for channels, dtype in ((96, "bf16"), (192, "bf16"), (192, "f32"), (256, "f32")):
        task = conv2d.task(56, 112, channels, channels, x=dtype, weight=dtype, y=dtype, norm="rms", z=dtype)  # type: ignore[arg-type]
        tactics = conv2d.tactics(task, target)
        assert tactics
        for tactic in tactics:
            rows, step_bytes = tactic.integer("BLOCK_M"), tactic.integer("BLOCK_K") * (4 if dtype == "f32" else 2)
            assert tactic.integer("BLOCK_N") + tactic.integer("BLOCK_N_MORE") == channels
            assert (rows + channels) * step_bytes * tactic.num_stages <= TARGETS[target].shared_bytes
    with pytest.raises(ValueError, match="conv2d: no tactics for target 'sm_75'"):
        conv2d.tactics(task, "sm_75")
