# SPDX-License-Identifier: Apache-2.0
"""Everyone in the comparison, behind one interface: built in a process of its own, one chunk a call.

All compute the same function of the same random weights: PyTorch the published, unfolded graph; ONNX Runtime and
OpenVINO the folded one, which `lightwam onnx` writes. Heavy packages are imported by the contender that needs them.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.config import LightWAMConfig

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """What a comparison runs on. `folder` holds the prepared files (prepare.py); `threads` is everyone's."""

    size: str
    folder: Path
    threads: int

    @property
    def config(self) -> LightWAMConfig:
        return {"nano": LightWAMConfig.nano, "libero": LightWAMConfig.libero}[self.size]()

    def engine(self, precision: str) -> Path:
        return self.folder / f"{self.size}-{precision}.lwam"

    @property
    def onnx(self) -> Path:
        return self.folder / f"{self.size}-onnx" / "model.onnx"

    @property
    def int8_model(self) -> Path:
        return self.folder / f"{self.size}-openvino-int8" / "model.xml"

    @property
    def inputs(self) -> Path:
        return self.folder / f"{self.size}-inputs.npz"

    @property
    def instruction(self) -> Path:
        return self.folder / f"{self.size}-instruction.npz"


def observation(setting: Setting, index: int) -> dict[str, Any]:
    """Random camera images [256, 256, 3] and a random state, the same for every contender."""
    rng, config = np.random.default_rng(1000 + index), setting.config
    images = {c.name: rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for c in config.cameras.cameras}
    return {"images": images, "state": rng.standard_normal(config.state_dim).astype(np.float32)}


class Contender(ABC):
    """A policy that is ready to run."""

    @abstractmethod
    def prepare(self, index: int) -> Any:
        """Observation `index` as the contender takes it; not timed."""

    @abstractmethod
    def infer(self, prepared: Any) -> Array:
        """Actions [H, A] of one chunk; timed."""

    def stages(self) -> dict[str, float]:
        """Seconds of the last chunk by stage, where the contender tells."""
        return {}

    def profiled_stages(self, prepared: Any) -> dict[str, float]:
        """Shares of the stages, from a profiled run after all timed ones; for contenders that do not tell otherwise."""
        return {}


class LightWAMContender(Contender):
    def __init__(self, setting: Setting, precision: str) -> None:
        from lightwam.runtime import Policy

        self._setting = setting
        self._policy = Policy(setting.engine(precision), threads=setting.threads, unfamiliar="ignore")
        known = self._policy.instructions
        self._policy.set_instruction(known[0] if known else INSTRUCTION)
        self._stages: dict[str, float] = {}

    def prepare(self, index: int) -> Any:
        return observation(self._setting, index)

    def infer(self, prepared: Any) -> Array:
        chunk = self._policy.infer(prepared)
        self._stages = {stage: value for stage, value in chunk.timings.items() if stage != "total"}
        return chunk.actions

    def stages(self) -> dict[str, float]:
        return self._stages


class PyTorchContender(Contender):
    """The unfolded model, eager or compiled."""

    def __init__(self, setting: Setting, precision: str, compiled: bool) -> None:
        import torch
        from eager import EagerPolicy

        torch.set_num_threads(setting.threads)
        self._setting = setting
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        with np.load(setting.inputs) as inputs:
            self._policy = EagerPolicy(setting.config, dtype, inputs["context"])
        if compiled:
            # Packed float32 weights of the full-size model would be a second 8 GB.
            self._policy.compile(freeze=setting.size == "nano" or precision == "bf16")
        else:
            self._policy.time_expert()

    def prepare(self, index: int) -> Any:
        return observation(self._setting, index)

    def infer(self, prepared: Any) -> Array:
        return np.asarray(self._policy.infer(prepared).numpy())

    def stages(self) -> dict[str, float]:
        return self._policy.seconds


class FoldedGraphContender(Contender):
    """What the two ONNX runtimes share: the canvas is made before the time starts, the instruction's values once."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        with np.load(setting.instruction) as values:
            self._instruction = dict(values)
        self._canvases: dict[int, Array] = {}

    def prepare(self, index: int) -> Any:
        from lightwam.engine.file import read_engine
        from lightwam.engine.images import compose_canvas

        seen = observation(self._setting, index)
        policy = read_engine(self._setting.engine("f32")).policy
        canvas = np.asarray(compose_canvas(seen["images"], policy), np.float32)
        return {**self._instruction, "canvas": canvas, "state": seen["state"][None]}


class ONNXRuntimeContender(FoldedGraphContender):
    def __init__(self, setting: Setting, profile: bool = False) -> None:
        super().__init__(setting)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.enable_profiling = profile
        options.profile_file_prefix = str(setting.folder / "onnxruntime")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle while others have their turn
        self._session = onnxruntime.InferenceSession(str(setting.onnx), options)

    def infer(self, prepared: Any) -> Array:
        return np.asarray(self._session.run(["actions"], prepared)[0])

    def profiled_stages(self, prepared: Any) -> dict[str, float]:
        import json

        del self._session
        profiled = ONNXRuntimeContender(self._setting, profile=True)
        profiled.infer(prepared)
        trace = Path(profiled._session.end_profiling())
        events = json.loads(trace.read_text())
        trace.unlink()
        seconds: dict[str, float] = defaultdict(float)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                seconds[stage_of(event["name"])] += event["dur"] * 1e-6
        return dict(seconds)


class OpenVINOContender(FoldedGraphContender):
    """f32 and bf16: the precision of the ONNX model's matmuls. int8: the model that prepare.py quantised."""

    def __init__(self, setting: Setting, precision: str, profile: bool = False) -> None:
        super().__init__(setting)
        import openvino

        self._precision = precision
        path = setting.int8_model if precision == "int8" else setting.onnx
        properties = {
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": profile,
        }
        self._request = openvino.Core().compile_model(path, "CPU", properties).create_infer_request()

    def infer(self, prepared: Any) -> Array:
        return np.asarray(next(iter(self._request.infer(prepared).values())))

    def profiled_stages(self, prepared: Any) -> dict[str, float]:
        del self._request
        profiled = OpenVINOContender(self._setting, self._precision, profile=True)
        profiled.infer(prepared)
        profiled.infer(prepared)
        seconds: dict[str, float] = defaultdict(float)
        for info in profiled._request.get_profiling_info():
            seconds[stage_of(info.node_name)] += info.real_time.total_seconds()
        return dict(seconds)


def stage_of(node: str) -> str:
    """The stage of a node of the ONNX model, by the engine op that it is named after."""
    if "vae." in node or "canvas" in node:
        return "vae"
    return "expert" if "expert." in node or "actions" in node else "backbone"


INSTRUCTION = "pick up the object"


@dataclass(frozen=True)
class Entry:
    """A contender of the table: how it is built, what it needs, and which of ours it takes turns with."""

    name: str
    precision: str
    packages: tuple[str, ...]
    opponents: tuple[str, ...]
    graph: str

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("lightwam-f32", "f32", (), (), "folded"),
        Entry("lightwam-bf16", "bf16", (), (), "folded"),
        Entry("lightwam-int8", "int8", (), (), "folded"),
        Entry("eager-bf16", "bf16", ("torch",), ("lightwam-bf16", "lightwam-int8"), "published"),
        Entry("eager-f32", "f32", ("torch",), ("lightwam-f32",), "published"),
        Entry("openvino-bf16", "bf16", ("openvino",), ("lightwam-bf16",), "folded"),
        Entry("openvino-f32", "f32", ("openvino",), ("lightwam-f32",), "folded"),
        Entry("onnxruntime-f32", "f32", ("onnxruntime",), ("lightwam-f32",), "folded"),
        Entry("openvino-int8", "int8", ("openvino", "nncf"), ("lightwam-int8", "lightwam-bf16"), "folded"),
        Entry("compile-bf16", "bf16", ("torch",), ("lightwam-bf16",), "published"),
        Entry("compile-f32", "f32", ("torch",), ("lightwam-f32",), "published"),
    )
}


def build(name: str, setting: Setting) -> Contender:
    """Load a contender in this process."""
    family, precision = name.split("-")
    if family == "lightwam":
        return LightWAMContender(setting, precision)
    if family == "onnxruntime":
        return ONNXRuntimeContender(setting)
    if family == "openvino":
        return OpenVINOContender(setting, precision)
    return PyTorchContender(setting, precision, compiled=family == "compile")
