# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's policy beside recordings, which it sees as the trainer shows them to it.

Legend: B rows, C T h w latents, L text rows, E text width, P state width, F frames of a window, H W canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightwam.data.dataset import Dataset
from lightwam.data.samples import DecodedFrames, SampleOptions, Samples, english
from lightwam.errors import CheckpointError, InstructionError
from lightwam.export.checkpoint import PolicyCheckpoint, open_checkpoint
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train.loader import joined
from lightwam.train.vae_path import encode_moments

BATCH = 8
"""Rows that are computed together."""


def open_policy(folder: Path) -> PolicyCheckpoint:
    """A policy's checkpoint folder with its networks in float32.

    Raises `CheckpointError` (of a VAE alone too), `DataError` without statistics, `ConfigError`.
    """
    _, tensors = load_checkpoint(folder)
    if tensors and all(name.startswith("vae.") for name in tensors):
        raise CheckpointError(
            f"checkpoint folder {folder} holds a VAE and no policy: give that of 'lightwam train policy'"
        )
    checkpoint = open_checkpoint(folder, show_progress=True)
    for part in (checkpoint.model, checkpoint.vae, checkpoint.text_encoder):
        if part is not None:
            part.float().requires_grad_(False)
    return checkpoint


class PolicyOnRecordings:
    """Batches of a data set's rows, for a checkpoint's policy; sample numbers are row numbers.

    Args:
        checkpoint: of `open_policy`.
        dataset: one that fits the configuration.
    """

    def __init__(self, checkpoint: PolicyCheckpoint, dataset: Dataset) -> None:
        self.checkpoint, self.dataset = checkpoint, dataset
        self.config, self.model, self.vae = checkpoint.config, checkpoint.model, checkpoint.vae
        self.samples = Samples(
            dataset, self.config, checkpoint.statistics, SampleOptions(whole_windows=False),
            frames=DecodedFrames(dataset, self.config),
        )  # fmt: skip
        self._contexts: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def batch(self, rows: Sequence[int], windows: bool = False) -> dict[str, Any]:
        """What the policy sees at these rows.

        Args:
            windows: with the latents of the whole window; else of the row's own frame, T = 1.

        Returns:
            `video_latents` [B, C, T, h, w], `context` [B, L, E], `context_mask` [B, L], `proprio` [B, P] (normalised),
            and `video` [B, 3, F, H, W] in -1..1, the frames of the window.
        """
        made = []
        for row in rows:
            sample = self.samples[row]
            context, mask = self._context(self.samples.episode(row).task)
            proprio = sample["proprio"][0]
            made.append({"video": sample["video"], "proprio": proprio, "context": context, "context_mask": mask})
        batch = joined(made)
        seen = batch["video"] if windows else batch["video"][:, :, :1]
        return {**batch, "video_latents": self.vae.normalize(encode_moments(self.vae, seen)[0])}

    def inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The arguments of the action pass (`LightWAM.predict_actions`): of each row's own frame."""
        return batch["video_latents"][:, :, :1], batch["context"], batch["context_mask"], batch["proprio"]

    def _context(self, task: str) -> tuple[Tensor, Tensor]:
        """Rows [L, E] of an instruction and their mask [L]. Raises `InstructionError` for one that is not known."""
        if task not in self._contexts:
            encoder, length = self.checkpoint.text_encoder, self.config.text.length
            if encoder is not None:
                rows = encoder([task]).rows[0]
            else:
                known = self.checkpoint.instructions
                ready = known.get(task, known.get(english(task)))
                if ready is None:
                    raise InstructionError(
                        f"the checkpoint has no context rows of {task!r}, only of {sorted(known)[:3]}: choose other "
                        "--episodes, or add the instruction with 'lightwam convert'"
                    )
                rows = torch.nn.functional.pad(ready.float(), (0, 0, 0, length - len(ready)))
            self._contexts[task] = rows, torch.ones(length, dtype=torch.bool)
        return self._contexts[task]
