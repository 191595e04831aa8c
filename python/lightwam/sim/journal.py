# SPDX-License-Identifier: Apache-2.0
"""The finished trials of an evaluation, a line of JSON each, on disk before the next trial begins.

The first line says which evaluation it is; so another one neither goes on from these trials nor overwrites them.
The file lies beside the report and is removed when that is complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError, DataError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, parse_json, short
from lightwam.sim.closed_loop import Trial
from lightwam.sim.plan import UNPERTURBED, Key

_MARK = "lightwam-eval-trials"
_REMEDY = "give the same options to go on, another --out, or remove that file"


def journal_path(report: Path) -> Path:
    """Where the trials of an evaluation are kept whose report is to be `report`."""
    return report.with_name(f"{report.stem}.trials.jsonl")


class Journal:
    """Finished trials, by task. `add` appends one."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self.trials = path, dict[Key, dict[int, Trial]]()
        self._file = file

    def of(self, key: Key) -> list[Trial]:
        """The finished trials of a task, in their order."""
        return [trial for _, trial in sorted(self.trials.get(key, {}).items())]

    def count(self) -> int:
        """All finished trials."""
        return sum(map(len, self.trials.values()))

    def add(self, key: Key, trial: Trial) -> None:
        """Append a trial, and have it on disk. Raises OSError (a full disk, say); then it is not there."""
        suite, task, perturb = key
        stages = [{name: float(value) for name, value in chunk.items()} for chunk in trial.stages]
        about = {"suite": suite, "task": task, "perturb": perturb}
        self.write({**about, **trial.as_json(), "seconds": trial.latencies, "stages": stages})
        self.trials.setdefault(key, {})[trial.index] = trial

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line whole, or leave the file as it was."""
        end, content = self._file.seek(0, os.SEEK_END), json.dumps(line).encode() + b"\n"
        try:
            if self._file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            error.filename = os.fspath(self.path)
            raise


@contextlib.contextmanager
def open_journal(path: Path, identity: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal at `path` of the evaluation `identity` (plain values by name), with what it holds already.

    Removed when the block ends well, or no trial is finished. Raises ConfigError where another process writes it, where
    it is of another evaluation (names the difference), where `path` is no such file or cannot be written; DataError
    where it is damaged.
    """
    check_output(path, "trials of an unfinished evaluation", ConfigError, _is_journal)
    with _locked(path) as file:
        journal = Journal(path, file)
        _read(journal, identity)
        ended_well = False
        try:
            yield journal
            ended_well = True
        finally:
            if ended_well or not journal.count():
                path.unlink(missing_ok=True)


def _locked(path: Path) -> FileIO:
    """The file, open, which no other evaluation has open meanwhile."""
    while True:
        try:
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}): give another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ConfigError(f"another evaluation writes {path}: wait for its end, or give another --out") from error
        except OSError:  # a file system without locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # the other evaluation ended, and removed it, in between


def _is_journal(path: Path, _: FileKind) -> bool:
    with path.open("rb") as file:
        return _MARK.encode() in file.read(200)


def _read(journal: Journal, identity: Mapping[str, Any]) -> None:
    """Fill `journal` from its file; begin the file where it holds no trial. A last line that was cut off is dropped."""
    journal._file.seek(0)
    content = journal._file.readall()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    if len(lines) < 2:
        journal._file.truncate(0)
        journal.write({_MARK: 1, "of": dict(identity)})
        return
    journal._file.truncate(len(whole))
    try:
        _refuse_another(journal.path, parse_json(lines[0])["of"], identity)
        for line in map(parse_json, lines[1:]):
            stages: list[Mapping[str, float]] = [dict(chunk) for chunk in line["stages"]]
            trial = Trial(int(line["index"]), bool(line["success"]), int(line["steps"]), line["seconds"], stages)
            trial.simulator, trial.film = line.get("simulator", {}), line.get("film", {})
            key = (line["suite"], line["task"], line.get("perturb", UNPERTURBED))
            journal.trials.setdefault(key, {})[trial.index] = trial
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"trials {journal.path} are damaged ({reason}): remove that file to start anew") from error


def _refuse_another(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises ConfigError, which names the first difference of two evaluations."""
    for name in dict.fromkeys((*here, *there)):
        old, new = there.get(name), here.get(name)
        if old != new:
            told = f"{name.replace('_', ' ')} {short(old, 60)}, now {short(new, 60)}"
            raise ConfigError(f"{path} holds trials of an unfinished evaluation with another {told}: {_REMEDY}")
