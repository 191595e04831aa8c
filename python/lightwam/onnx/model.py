# SPDX-License-Identifier: Apache-2.0
"""Makes ONNX models node by node, their weights in one data file beside them, streamed tensor by tensor.

Models of one policy share the data file: a weight that both use is stored once. Values are float32 throughout; a weight
stored in 16 bits is widened by a Cast, which every runtime folds while it loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

import onnx
from lightwam.engine.dtypes import ITEM_SIZE, Array, Shape
from lightwam.engine.graph import Constant
from lightwam.errors import ExportError

OPSET = 23  # the first with Attention and RMSNormalization
IR_VERSION = 11  # that of the release that brought the operator set
PAGE = 4096  # a mapped tensor begins on a page
_INLINE_ELEMENTS = 64

Transform = Callable[[Array], Array]


@dataclass(frozen=True)
class StoredTensor:
    """A weight in the data file: where it lies, and how its numbers are made from the engine's constant."""

    constant: Constant
    transform: Transform | None
    shape: Shape
    offset: int

    @property
    def num_bytes(self) -> int:
        return ITEM_SIZE[self.constant.type.dtype] * math.prod(self.shape)


@dataclass
class WeightFile:
    """The data file of one or more models: tensors by (constant, variant), each stored once, in order of first use."""

    location: str
    tensors: dict[tuple[str, str], StoredTensor] = field(default_factory=dict)
    num_bytes: int = 0

    def place(self, constant: Constant, variant: str, shape: Shape, transform: Transform | None) -> StoredTensor:
        """The place of a constant; `variant` names the transform, `shape` is the transformed one."""
        known = self.tensors.get((constant.name, variant))
        if known is None:
            offset = -(-self.num_bytes // PAGE) * PAGE
            known = StoredTensor(constant, transform, shape, offset)
            self.tensors[constant.name, variant] = known
            self.num_bytes = offset + known.num_bytes
        return known

    def write(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        """Make and write one tensor after the other. `on_bytes` is called with every tensor's size."""
        for tensor in self.tensors.values():
            array = tensor.constant.array()
            numbers = array if tensor.transform is None else tensor.transform(array)
            if numbers.shape != tensor.shape or numbers.dtype != array.dtype:
                raise ExportError(f"constant {tensor.constant.name}: made {numbers.shape}, declared {tensor.shape}")
            file.seek(tensor.offset)
            file.write(np.ascontiguousarray(numbers).data)
            on_bytes(tensor.num_bytes)


class ModelBuilder:
    """Appends nodes to one ONNX graph. Every method returns the name of the value it made."""

    def __init__(self, name: str, weights: WeightFile) -> None:
        self._name = name
        self._weights = weights
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._widened: dict[str, str] = {}

    def bind(self, name: str, shape: Shape, integer: bool = False) -> str:
        """An input of the model: float32, or int32."""
        kind = onnx.TensorProto.INT32 if integer else onnx.TensorProto.FLOAT
        self._inputs.append(onnx.helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attrs: Any) -> str:
        """A node with one output, called like it."""
        self._nodes.append(onnx.helper.make_node(op, inputs, [output], name=output, **attrs))
        return output

    def reshape(self, x: str, shape: Shape, output: str) -> str:
        return self.node("Reshape", [x, self.integers(*shape)], output)

    def integers(self, *numbers: int) -> str:
        """An int64 vector."""
        return self.table("i64." + ".".join(map(str, numbers)), np.array(numbers, np.int64))

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.table(f"f32.{value!r}", np.array(value, np.float32))

    def table(self, name: str, array: Array) -> str:
        """A small array within the model, by name."""
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def constant(
        self, constant: Constant, variant: str = "", shape: Shape | None = None, transform: Transform | None = None
    ) -> str:
        """One of the engine's constants as float32; `transform` rearranges its stored numbers into `shape`."""
        made = shape or constant.type.shape
        name = f"{constant.name}:{variant}" if variant else constant.name
        stored_as = constant.type.dtype
        if stored_as not in ("f32", "bf16", "f16"):
            raise ExportError(
                f"constant {constant.name} is {constant.type}: export the policy in a float precision for ONNX"
            )
        if stored_as == "f32" and math.prod(made) <= _INLINE_ELEMENTS:
            array = constant.array()
            return self.table(name, np.array(array if transform is None else transform(array)))
        if name not in self._initializers:
            self._initializers[name] = self._external(name, self._weights.place(constant, variant, made, transform))
        if stored_as == "f32":
            return name
        if name not in self._widened:
            self._widened[name] = self.node("Cast", [name], f"{name}:f32", to=onnx.TensorProto.FLOAT)
        return self._widened[name]

    def _external(self, name: str, stored: StoredTensor) -> Any:
        proto = onnx.TensorProto
        types = {"f32": proto.FLOAT, "bf16": proto.BFLOAT16, "f16": proto.FLOAT16}
        tensor = proto(name=name, dims=stored.shape, data_type=types[stored.constant.type.dtype])
        tensor.data_location = proto.EXTERNAL
        places = {"location": self._weights.location, "offset": stored.offset, "length": stored.num_bytes}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def output(self, x: str, name: str, shape: Shape) -> None:
        """Declare an output; `x` is renamed to `name`."""
        if x != name:
            self.node("Identity", [x], name)
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
        self._outputs.append(info)

    def serialize(self, metadata: Mapping[str, str]) -> bytes:
        """The model without its weights. `metadata`: its free key-value entries."""
        helper = onnx.helper
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        imports = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="lightwam")
        helper.set_model_props(model, dict(metadata))
        return bytes(model.SerializeToString())
