# SPDX-License-Identifier: Apache-2.0
"""`lightwam convert`: released checkpoints -> a checkpoint folder of our own."""

from __future__ import annotations

from lightwam.convert.checkpoint import ConvertArgs, convert_checkpoint


def main(arguments: ConvertArgs) -> int:
    """Convert and print what was written. Raises `CheckpointError`, `ConfigError`, `DataError`, `InstructionError`."""
    report = convert_checkpoint(arguments)
    print("".join(f"{note}\n" for note in report.notes), end="")
    tensors = report.weights.values()
    kept = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    kinds = ", ".join(kept) if arguments.dtype == "keep" else arguments.dtype
    numbers = sum(tensor.numel() for tensor in tensors)
    print(f"{arguments.out}: {len(tensors)} tensors, {numbers:,} numbers, {kinds}, {report.num_bytes / 1e6:.1f} MB")
    if not report.has_vae:
        print("no VAE: such a checkpoint cannot be exported to start at images; give --vae")
    if arguments.stats is None:
        print("no statistics: such a checkpoint cannot be exported; give --stats")
    if arguments.instructions:
        print(f"context rows of {len(arguments.instructions)} instructions")
    return 0
