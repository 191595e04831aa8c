# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

STAGES: list[str]

def verify(path: bytes) -> str: ...
def clean_instruction(text: str) -> str: ...

class Policy:
    def __init__(
        self,
        path: bytes,
        device: str,
        threads: int,
        precision: str,
        instruction_set: str = "auto",
        color_order: str = "rgb",
        unfamiliar: str = "warn",
        on_warning: Callable[[str], None] | None = None,
    ) -> None: ...
    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn: ...
    def set_instruction(self, text: str) -> None: ...
    def infer(
        self,
        images: dict[str, NDArray[np.uint8]],
        latents: NDArray[np.float32] | None,
        state: NDArray[np.float32],
        actions: NDArray[np.float32],
        seconds: NDArray[np.float64],
    ) -> None: ...
    def infer_by_stage(
        self,
        images: dict[str, NDArray[np.uint8]],
        latents: NDArray[np.float32] | None,
        state: NDArray[np.float32],
        actions: NDArray[np.float32],
        seconds: NDArray[np.float64],
    ) -> None: ...
    def tune(
        self,
        images: dict[str, NDArray[np.uint8]],
        latents: NDArray[np.float32] | None,
        state: NDArray[np.float32],
        repeats: int,
        progress: Callable[[int, int], None],
    ) -> dict[str, Any]: ...
    @property
    def instruction(self) -> str: ...
    @property
    def instruction_computations(self) -> int: ...
    @property
    def resize_plans_built(self) -> int: ...
    @property
    def document(self) -> str: ...
    @property
    def execution_info(self) -> str: ...
    @property
    def warning(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def instruction_set(self) -> str: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
