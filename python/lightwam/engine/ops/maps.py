# SPDX-License-Identifier: Apache-2.0
"""Ops on images and feature maps [h, w, C]. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape
from lightwam.engine.lazy_torch import F
from lightwam.engine.ops.spec import BIAS, RESIDUAL, WEIGHT, Call, Operands, OpSpec, X
from lightwam.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor


def _preprocess_images_shape(o: Operands) -> dict[str, Shape]:
    o.require("y" in o.declared, "an output y")
    shape = o.declared["y"].shape
    o.require(len(shape) == 3 and shape[2] == 3, "an output [height, width, 3]")
    return {"y": shape}


def _preprocess_images(c: Call) -> Tensor:
    if c.canvas is None:
        raise ExportError("this graph starts at images: give act the images")
    return c.canvas


def _nchw_to_nhwc_shape(o: Operands) -> dict[str, Shape]:
    shape = o.inputs["x"].shape
    o.require(len(shape) == 3, "x [C, h, w]")
    return {"y": (shape[1], shape[2], shape[0])}


def _padding(attr: object) -> tuple[int, int, int, int]:
    """top, left, bottom, right."""
    assert isinstance(attr, tuple)
    top, left, bottom, right = attr
    return top, left, bottom, right


def _conv2d_shape(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"].shape, o.constants["weight"].shape
    o.require(len(x) == 3 and len(weight) == 4 and weight[3] == x[2], "x [h, w, Cin] and weight [Cout, kh, kw, Cin]")
    (top, left, bottom, right), stride = _padding(o.attrs["padding"]), o.count("stride")
    height = (x[0] + top + bottom - weight[1]) // stride + 1
    width = (x[1] + left + right - weight[2]) // stride + 1
    o.require(
        x[0] + top + bottom >= weight[1] and x[1] + left + right >= weight[2], "an image no smaller than the kernel"
    )
    output = (height, width, weight[0])
    o.require_bias_and_residual(weight[0], output)
    o.require("residual" not in o.inputs or o.inputs["residual"].shape == output, f"residual {list(output)}")
    return {"y": output}


def _conv2d_flops(o: Operands) -> int:
    height, width, _ = _conv2d_shape(o)["y"]
    return 2 * height * width * math.prod(o.constants["weight"].shape)


def _conv2d(c: Call) -> Tensor:
    top, left, bottom, right = _padding(c.attrs["padding"])
    x = F.pad(c["x"].permute(2, 0, 1)[None], (left, right, top, bottom))
    y = F.conv2d(x, c["weight"].permute(0, 3, 1, 2), c.get("bias"), stride=c.count("stride"))
    return c.add_residual(c.activate(y[0].permute(1, 2, 0)))


SPECS = (
    OpSpec("preprocess_images", _preprocess_images_shape, _preprocess_images, exact=True),
    OpSpec("nchw_to_nhwc", _nchw_to_nhwc_shape, lambda c: c["x"].permute(1, 2, 0), (X,), exact=True),
    OpSpec("conv2d", _conv2d_shape, _conv2d, (X, RESIDUAL), (WEIGHT, BIAS),
           {"stride": "count", "padding": "padding", "activation": "activation"}, _conv2d_flops, matmul=True,
           exact=True),
)  # fmt: skip
