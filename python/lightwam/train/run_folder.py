# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: one process at a time, saves that are whole or not there, nothing of others touched.

    run.json                  marks the folder as a run's
    .lock                     held while a run is on; names its process
    saves/step_00000250/      checkpoint/, state.pt, save.json; its name is what makes a save count
    checkpoint, best          links to the checkpoint of the newest and of the best save
    bad_batch_00000812.pt     what made a loss not finite

docs/reference/run-folder.md is the contract.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lightwam.errors import RunFolderError, TrainingError
from lightwam.files import (
    load_json,
    remove_folder,
    remove_leftovers,
    replace_link,
    replacing_file,
    replacing_folder,
)
from lightwam.identity import Fingerprint
from lightwam.lock import FolderLock
from lightwam.model.fit import faults_line, find_not_finite
from lightwam.train.distributed import World
from lightwam.train.fingerprint import compare
from lightwam.train.rollouts import FOLDER as ROLLOUTS
from lightwam.train.state import TrainingState

log = logging.getLogger(__name__)

FORMAT = 1
RUN_FILE, LOCK_FILE, SAVES, CHECKPOINT, BEST = "run.json", ".lock", "saves", "checkpoint", "best"
STATE_FILE, SAVE_FILE = "state.pt", "save.json"
_STEP = re.compile(r"step_(\d{8,})")
_EARLIER = ("resume.pt",)
_WRITERS = ("PytorchStreamWriter", "inline_container", "iostream")
"""Of the messages of torch's writer, which makes its own errors of a full disk."""
_MARGIN = 1 << 20  # bytes beside the tensors


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which saves stay: the `last` so many, and the one whose validation figure `best` is the best."""

    last: int = 2
    best: str | None = None
    larger_is_better: bool = False


@dataclass(frozen=True)
class Save:
    """A save that is whole."""

    folder: Path
    step: int
    figures: dict[str, float]
    fingerprint: Fingerprint

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint folder."""
        return self.folder / CHECKPOINT


def check_run_folder(out: Path, kind: str) -> None:
    """Whether a run of this kind may use `out`; to be called before long work, and it changes nothing.

    Raises:
        RunFolderError: `out` is a file, holds other things than a run (one is named), a run of another kind or of an
            earlier version, or cannot be written.
    """
    place = Path(os.path.realpath(out))
    if place.exists() and not place.is_dir():
        raise RunFolderError(f"{out} is a file: give a folder for the run")
    parent = next(folder for folder in (place, *place.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(f"{out} cannot be written: {parent} is no folder that you may write in")
    if not place.exists():
        return
    names = sorted(os.listdir(place))
    if RUN_FILE not in names:
        earlier = [name for name in names if name in _EARLIER]
        if earlier:
            raise RunFolderError(
                f"{out} holds a run of an earlier version of lightwam ({earlier[0]}), which cannot go on: give another "
                f"--out, and --init {out}/checkpoint to start from its weights"
            )
        foreign = [name for name in names if name != LOCK_FILE]
        if foreign:
            raise RunFolderError(f"{out} holds {foreign[0]!r}, which is not of a training run: give another --out")
        return
    document = _read(place / RUN_FILE)
    found = document.get("kind") if document else None
    if document is None or document.get("format") != FORMAT:
        raise RunFolderError(f"{place / RUN_FILE} is not of this version of lightwam: give another --out")
    if found != kind:
        raise RunFolderError(f"{out} holds a run of `train {found}`, not of `train {kind}`: give another --out")
    for name in (CHECKPOINT, BEST):
        link = place / name
        if link.exists() and not _is_ours(link):
            raise RunFolderError(f"{link} is not the link of a run: move it away, or give another --out")


def check_not_in_use(out: Path) -> None:
    """Raise `RunFolderError` where another process holds the run's folder now; to be called before long work."""
    lock = Path(os.path.realpath(out)) / LOCK_FILE
    if lock.is_file():
        FolderLock(lock, str(out), RunFolderError).release()


def saves_of(out: Path) -> list[Save]:
    """The whole saves of a run's folder, the newest last. One that is not whole is left alone, with a warning."""
    folders = out / SAVES
    found = []
    for folder in folders.iterdir() if folders.is_dir() else ():
        match = _STEP.fullmatch(folder.name)
        if match is None or not folder.is_dir():
            continue
        document = _read(folder / SAVE_FILE)
        if document is None or any(_size(folder / name) != size for name, size in document.get("files", {}).items()):
            log.warning("save %s is not whole, as if copied in part: it is not used", folder)
            continue
        found.append(Save(folder, int(match[1]), document["figures"], document["fingerprint"]))
    return sorted(found, key=lambda save: save.step)


def fingerprint_of(checkpoint: Path) -> Fingerprint | None:
    """The fingerprint of the run that made a checkpoint folder (by its link too); None for a folder of no run."""
    document = _read(Path(os.path.realpath(checkpoint)).parent / SAVE_FILE)
    return None if document is None else document.get("fingerprint")


class RunFolder:
    """A run's folder in use: a context manager that holds its lock.

    Args:
        out: the folder; made if it is not there.
        kind: what is trained: "policy", "vae".
        fingerprint: what the run's result depends on.
        allow_changed: names of the fingerprint that may differ from the newest save's (`fingerprint.compare`).
        keep: which saves stay.
        world: the processes of the run; all but the first only read. None: this one alone.

    Raises:
        RunFolderError: on entering, as `check_run_folder`; where another run holds the folder; where the newest save
            was made otherwise.
    """

    def __init__(
        self,
        out: Path,
        kind: str,
        fingerprint: Fingerprint,
        *,
        allow_changed: Iterable[str] = (),
        keep: Keep | None = None,
        world: World | None = None,
    ) -> None:
        self.out, self.kind, self.fingerprint, self.world = Path(out), kind, fingerprint, world or World()
        self.allow_changed, self.keep = tuple(allow_changed), keep or Keep()
        self._place = Path(os.path.realpath(out))
        self._lock: FolderLock | None = None

    def __enter__(self) -> RunFolder:
        self.world.on_first(self._take)
        return self

    def _take(self) -> None:
        check_run_folder(self.out, self.kind)
        self._place.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._place / LOCK_FILE, str(self.out), RunFolderError)
        try:
            check_run_folder(self.out, self.kind)  # it may have been filled since
            for folder in (self._place, self._place / SAVES, self._place / ROLLOUTS):
                remove_leftovers(folder, alone=True)
            saves = saves_of(self._place)
            if saves:
                what = f"the run in {self.out} (step {saves[-1].step})"
                changed = compare(saves[-1].fingerprint, self.fingerprint, what, self.allow_changed)
                for name, (old, new) in changed.items():
                    log.warning("%s was %s, is now %s", name, old, new)
            self.write_json(RUN_FILE, {"format": FORMAT, "kind": self.kind, "fingerprint": self.fingerprint})
            (self._place / SAVES).mkdir(exist_ok=True)
            self._link(saves)
            for path in sorted(self._place.glob("bad_batch_*.pt")):
                log.warning("an earlier attempt met a loss that was not finite; its batch is %s", path)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.release()

    def resume(self) -> TrainingState | None:
        """The state of the newest whole save; None where there is none. Raises `CheckpointError`."""
        saves = saves_of(self._place)
        return TrainingState.read(saves[-1].folder / STATE_FILE) if saves else None

    def newest(self) -> Save | None:
        """The newest whole save."""
        saves = saves_of(self._place)
        return saves[-1] if saves else None

    def save(
        self,
        state: TrainingState,
        write_checkpoint: Callable[[Path], object],
        figures: Mapping[str, float] | None = None,
        checkpoint_bytes: int | None = None,
    ) -> Path:
        """Commit a save, then remove those that need not stay. A step that is saved already is left as it is.

        Args:
            state: what resuming needs.
            write_checkpoint: writes a checkpoint folder of the path that it gets.
            figures: validation figures of this step.
            checkpoint_bytes: about what the checkpoint takes; None: as much as that of the save before.

        Returns:
            The save's checkpoint folder.

        Raises:
            RunFolderError: no room, or the disk fails. TrainingError: weights are not finite. Earlier saves stay.
        """
        folder = self._place / SAVES / f"step_{state.step:08d}"
        saves = saves_of(self._place)
        if any(save.step == state.step for save in saves):
            return folder / CHECKPOINT
        faults = find_not_finite(state.weights)
        if faults:
            raise TrainingError(f"step {state.step}: {faults_line(faults)}: nothing was saved, earlier saves stay")
        if checkpoint_bytes is None:
            checkpoint_bytes = _tree_size(saves[-1].checkpoint) if saves else 0
        self._require_room(state, checkpoint_bytes, saves)
        try:
            with replacing_folder(folder) as building:
                write_checkpoint(building / CHECKPOINT)
                state.write(building / STATE_FILE)
                files = {str(path.relative_to(building)): path.stat().st_size for path in _files(building)}
                document = {"format": FORMAT, "step": state.step, "figures": dict(figures or {}), "files": files}
                (building / SAVE_FILE).write_text(json.dumps({**document, "fingerprint": self.fingerprint}, indent=1))
            saves = saves_of(self._place)
            self._link(saves)
            self._prune(saves)
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and not any(word in str(error) for word in _WRITERS):
                raise
            raise RunFolderError(self._not_saved(state.step, error)) from error
        return folder / CHECKPOINT

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a document of the run's own, whole. Raises OSError."""
        with replacing_file(self._place / name) as building:
            building.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def bad_batch(
        self,
        error: Exception,
        step: int,
        batches: Sequence[Mapping[str, Any]],
        about: Mapping[str, Any] | None = None,
    ) -> TrainingError:
        """Write what a loss or gradient that is not finite came from, and return the error to raise.

        Args:
            error: what the step raised.
            step: updates done before.
            batches: the micro-batches of this process.
            about: plain data that tells where they come from: seed, numbers of the samples.
        """
        rank = "" if self.world.is_first else f"_rank{self.world.rank}"
        path = self._place / f"bad_batch_{step:08d}{rank}.pt"
        tensors = [_on_cpu(batch) for batch in batches]
        try:
            with replacing_file(path) as building, building.open("wb") as file:
                torch.save({"step": step, "about": dict(about or {}), "batches": tensors}, file)
            told = f"the batch is {self.out / path.name}"
        except (OSError, RuntimeError) as reason:
            told = f"the batch could not be written ({reason})"
        newest = self.newest()
        kept = "no save was made before" if newest is None else f"the save of step {newest.step} stays"
        return TrainingError(f"{error}; {told}; {kept}")

    def _require_room(self, state: TrainingState, checkpoint_bytes: int, saves: Sequence[Save]) -> None:
        needed, free = state.nbytes + checkpoint_bytes + _MARGIN, shutil.disk_usage(self._place).free
        if needed > free:
            kept = f"the save of step {saves[-1].step} stays" if saves else "there is no save yet"
            raise RunFolderError(
                f"the save of step {state.step} takes {needed / 1e6:.0f} MB and {self.out} has {free / 1e6:.0f} MB "
                f"free: free some room and repeat the command; {kept}"
            )

    def _not_saved(self, step: int, error: Exception) -> str:
        reason = (isinstance(error, OSError) and error.strerror) or "the disk is full, or fails"
        newest = self.newest()
        kept = f"the save of step {newest.step} stays" if newest else "there is no save yet"
        return f"step {step} could not be saved in {self.out} ({reason}): free some room and repeat the command; {kept}"

    def _link(self, saves: Sequence[Save]) -> None:
        best = self._best(saves)
        for name, save in ((CHECKPOINT, saves[-1] if saves else None), (BEST, best)):
            if save is not None:
                target = f"{SAVES}/{save.folder.name}/{CHECKPOINT}"
                if not (self._place / name).is_symlink() or os.readlink(self._place / name) != target:
                    replace_link(self._place / name, target)

    def _best(self, saves: Sequence[Save]) -> Save | None:
        name = self.keep.best
        rated = [save for save in saves if name is not None and name in save.figures]
        sign = -1 if self.keep.larger_is_better else 1
        return min(rated, key=lambda save: sign * save.figures[str(name)], default=None)

    def _prune(self, saves: Sequence[Save]) -> None:
        best = self._best(saves)
        for save in saves[: -max(1, self.keep.last)]:
            if save is not best:
                remove_folder(save.folder)


def _on_cpu(node: Any) -> Any:
    """A batch's tensors in the CPU's memory, whatever holds them."""
    if isinstance(node, Tensor):
        return node.detach().cpu()
    if isinstance(node, Mapping):
        return {name: _on_cpu(value) for name, value in node.items()}
    return [_on_cpu(value) for value in node] if isinstance(node, (list, tuple)) else node


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and re.fullmatch(rf"{SAVES}/{_STEP.pattern}/{CHECKPOINT}", os.readlink(link)) is not None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = load_json(path, any_number=True)
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _tree_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
