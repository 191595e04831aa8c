# SPDX-License-Identifier: Apache-2.0
"""Where training computes: the CPU or one GPU, its mixed precision, and how batches get there."""

from __future__ import annotations

import importlib.util
import logging
import re

import torch
from torch import Tensor

from lightwam.errors import ConfigError, DeviceError
from lightwam.extras import how_to_install
from lightwam.model.attention import AttentionMethod

log = logging.getLogger(__name__)


def use_device(name: str) -> torch.device:
    """The device of `--device`: 'cpu', 'cuda' (the first GPU) or 'cuda:N'; logged.

    What is not computed in bfloat16 is float32 on both: on a GPU this turns off convolutions in tf32, which PyTorch
    takes by default.

    Raises:
        DeviceError: another name, no CUDA in this PyTorch, no GPU, or none of that number.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise DeviceError(f"--device is {name!r}: give cpu, cuda or cuda:N")
    if name == "cpu":
        log.info("training on the CPU, %d thread(s)", torch.get_num_threads())
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "finds no GPU that it can use"
        raise DeviceError(f"--device {name}: PyTorch {torch.__version__} {why}: install one that does, or give cpu")
    number, count = int(match[1] or 0), torch.cuda.device_count()
    if number >= count:
        raise DeviceError(f"--device {name}: this process may use {count} GPU(s): give a number below {count}")
    device = torch.device("cuda", number)
    torch.backends.cudnn.allow_tf32 = False
    log.info("training on GPU %d, %s (sm_%d%d)", number, torch.cuda.get_device_name(device), *_capability(device))
    return device


def choose_attention(requested: AttentionMethod | None, device: torch.device) -> AttentionMethod:
    """How attention is computed: the requested method, else the fastest known for this device; logged."""
    method, why = (requested, "as requested") if requested is not None else _fastest_attention(device)
    log.info("attention %s: %s (--attention sdpa, softmax or kernels)", method, why)
    return method


def _fastest_attention(device: torch.device) -> tuple[AttentionMethod, str]:
    if device.type == "cpu":
        return "softmax", "the fastest on a CPU in bfloat16"
    if importlib.util.find_spec("triton") is None:
        return "sdpa", f"the kernels need Triton: {how_to_install(('gpu',))}"
    from lightwam.kernels.targets import ALL_TARGETS

    target = "sm_{}{}".format(*_capability(device))
    if target not in ALL_TARGETS:
        return "sdpa", f"the kernels have no tactics for {target}, only for {', '.join(ALL_TARGETS)}"
    return "kernels", f"Triton kernels, compiled for {target} on first use"


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def mixed_precision(device: torch.device) -> torch.autocast:
    """The context of a training step: matmuls in bfloat16, the rest in float32."""
    return torch.autocast(device.type, torch.bfloat16)


def _cpu_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def warn_of_slow_bfloat16(device: torch.device, precision: str) -> None:
    """Log a warning where training computes in bfloat16 on a CPU that has no instructions for it (no AVX-512)."""
    if precision == "float32" or device.type != "cpu" or _cpu_has_bfloat16():
        return
    log.warning(
        "this CPU has no instructions for bfloat16, and computes it several times slower than float32 "
        "(--precision %s): --precision float32 is faster here", precision,
    )  # fmt: skip


def require_compiler(device: torch.device) -> None:
    """Compile a sum on the device, which takes some seconds: torch.compile needs a C++ compiler, on a GPU Triton too.

    Raises `ConfigError` where that fails.
    """
    try:
        torch.compile(lambda number: number + 1)(torch.zeros(2, device=device))
    except Exception as error:  # many classes of torch's own
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"--compile: PyTorch cannot compile here ({' '.join(reason.split())[:200]}): install a C++ compiler (g++), "
            "or give --no-compile"
        ) from error


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in CPU memory on the device: to a GPU from page-locked memory, and nothing waits for the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
