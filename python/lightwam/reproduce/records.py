# SPDX-License-Identifier: Apache-2.0
"""What is done in the folder of a reproduction, and what each step's result depends on.

A step's record, `steps/NAME.json`, holds its identity (command, options, code, versions, content of what it reads) and
the content of what it made. A step that is done is taken as it is only where its identity is still the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from lightwam.errors import RunFolderError
from lightwam.files import read_json, replacing_file
from lightwam.identity import Fingerprint, covers, differences, told
from lightwam.lock import FolderLock
from lightwam.reproduce.plan import Plan, Step
from lightwam.sim.fidelity import VERSION, package_versions
from lightwam.sim.registry import load_simulator

MARK, LOCK, STEPS = "reproduce.json", ".lock", "steps"
_FORMAT = 1
_PART = 1 << 20  # bytes read at once
_PACKAGE = Path(__file__).resolve().parents[1]

_TRAINING = ("config", "data", "model", "train")
_CODE = {
    "record": ("config", "data", "sim"), "train replay": ("config", "sim"), "eval": ("config", "sim"),
    "train vae": _TRAINING, "train policy": _TRAINING, "train blind": _TRAINING, "data precompute": _TRAINING,
    "export": ("config", "engine", "export", "model"), "quantize": ("engine", "quantize"),
}  # fmt: skip
"""Verb -> rooms of the package whose sources its result depends on."""

_SIMULATED = ("record", "train replay", "eval")


@dataclass(frozen=True)
class Record:
    """A step that was begun, and perhaps done.

    products: name -> SHA-256 of its content, once done. seconds: of all attempts.
    """

    identity: Fingerprint
    command: str
    done: bool = False
    seconds: float = 0.0
    products: dict[str, str] = field(default_factory=dict)


class Folder:
    """The folder of a reproduction, held by this process between `open_folder`'s begin and end."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.paths = plan.paths(path)

    def record_path(self, step: Step) -> Path:
        """Where a step's record lies."""
        return self.path / STEPS / f"{step.name.replace('/', '-')}.json"

    def log_path(self, step: Step) -> Path:
        """What a step's command prints."""
        return self.path / "logs" / f"{step.name.replace('/', '-')}.log"

    def read(self, step: Step) -> Record | None:
        """A step's record; None where it was not begun. Raises RunFolderError: damaged."""
        path = self.record_path(step)
        if not path.exists():
            return None
        try:
            return Record(**read_json(path, "record of a step", RunFolderError, "remove it to run the step again"))
        except TypeError as error:
            raise RunFolderError(f"{path} is no record of a step ({error}): remove it to run the step again") from error

    def write(self, step: Step, record: Record) -> None:
        """Write a step's record."""
        self.record_path(step).parent.mkdir(exist_ok=True)
        with replacing_file(self.record_path(step)) as building:
            building.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")

    def is_done(self, step: Step) -> bool:
        """Whether a step's record says so."""
        record = self.read(step)
        return record is not None and record.done

    def identity(self, step: Step) -> Fingerprint | None:
        """What the step's result depends on; None as long as something that it reads is not made."""
        found: Fingerprint = {"command": " ".join((step.verb, *step.arguments)), "code": _code(step.verb)}
        found |= {f"options.{name}": str(value) if isinstance(value, list) else value
                  for name, value in step.options.items()}  # fmt: skip
        found |= {f"{VERSION}{name}": version for name, version in _versions(step).items()}
        for product in step.reads():
            maker = self.read(self.plan.maker(product))
            if maker is None or not maker.done:
                return None
            found[f"reads.{product}"] = maker.products[product]
        return found

    def refuse_changed(self, step: Step, identity: Fingerprint, allowed: Sequence[str]) -> bool:
        """Whether the step was begun otherwise, and all of that is allowed.

        Raises RunFolderError where it is not, by name of the differences.
        """
        record = self.read(step)
        earlier = identity if record is None else record.identity
        found = {f"{step.name}.{name}": pair for name, pair in differences(earlier, identity).items()}
        refused = {name: pair for name, pair in found.items() if not covers(allowed, name)}
        if refused:
            raise RunFolderError(
                f"{step.name} in {self.path} was made otherwise: {told(refused)}: give what it was made with, "
                f"another --out, or --allow-changed {' '.join(refused)}"
            )
        return bool(found)

    def check_reads(self, step: Step) -> None:
        """Raises RunFolderError where what the step reads is not what was made."""
        for product in step.reads():
            maker = self.plan.maker(product)
            record = self.read(maker)
            assert record is not None
            found = content(self.paths[product])
            if found != record.products[product]:
                what = "is missing" if found is None else f"is not what {maker.name} made"
                raise RunFolderError(
                    f"{self.paths[product]}, which {step.name} reads, {what}: put it back, give another --out, or "
                    f"remove {self.record_path(maker)} to make it again"
                )


@contextlib.contextmanager
def open_folder(path: Path, plan: Plan) -> Iterator[Folder]:
    """Holds the folder for a reproduction of this plan; it is made where it is missing.

    Raises RunFolderError where it holds other things or another plan, or is in use.
    """
    mark = path / MARK
    about: Fingerprint = {"format": _FORMAT, "plan": plan.source, "smoke": plan.smoke}
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: give another --out")
    if path.exists() and any(entry.name != LOCK for entry in path.iterdir()) and not mark.is_file():
        raise RunFolderError(f"{path} holds other things than a reproduction: give another --out")
    path.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(path / LOCK, f"the folder {path}", RunFolderError)
    try:
        if mark.exists():
            earlier = read_json(mark, "mark of a reproduction", RunFolderError, "give another --out")
            if earlier != about:
                found = differences(earlier, about)
                raise RunFolderError(f"{path} is of another reproduction: {told(found)}: give another --out")
        else:
            with replacing_file(mark) as building:
                building.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (path / "logs").mkdir(exist_ok=True)
        yield Folder(path, plan)
    finally:
        lock.release()


def content(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder's names and files; None where there is nothing."""
    if path.is_file():
        return _digest(path)
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_digest(file)}\0".encode())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def _versions(step: Step) -> Mapping[str, str]:
    """Versions of the packages that a step's result depends on."""
    if step.verb in _SIMULATED:
        return package_versions(("numpy", *load_simulator(str(step.options.get("sim", "libero"))).packages))
    return package_versions(("numpy", "torch"))


@cache
def _code(verb: str) -> str:
    """12 hex digits of the sources that a verb's result depends on."""
    digest = hashlib.sha256()
    for room in _CODE.get(verb, ()):
        for path in sorted((_PACKAGE / room).rglob("*")):
            if path.suffix in (".py", ".json"):
                digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
