# SPDX-License-Identifier: Apache-2.0
"""Tasks to the machine code of their tactics, from the cache or compiled in processes. `Compiler` is where to start.

A tactic that spills, or needs more shared memory than the target has, is dropped; where that leaves none, the one
that spills least stays. The first tactic kept is the target's default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lightwam.kernels.compiler.cache import CompileCache
from lightwam.kernels.compiler.variant import Code, Variant, variant_key
from lightwam.kernels.compiler.worker import Outcome, compile_variants
from lightwam.kernels.targets import TARGETS, check_formats, known_targets
from lightwam.kernels.task import Tactic, Task, kernel_module

MOST_TACTICS = 3  # of a task with matmuls; row-wise kernels have one


class CompileError(ValueError):
    """No tactic of a task can be compiled for a target. One line."""


@dataclass(frozen=True)
class CompiledTactic:
    """A tactic with its code. `key` names the code: tactics with the same key share it. `note`: what is wrong or ''."""

    tactic: Tactic
    key: str
    code: Code
    note: str = ""


@dataclass
class CompiledTask:
    """What came of a task on a target: the tactics kept, the default first, and why others were dropped."""

    task: Task
    target: str
    kept: list[CompiledTactic] = field(default_factory=list)
    dropped: list[tuple[Tactic, str]] = field(default_factory=list)
    _spilling: list[CompiledTactic] = field(default_factory=list, repr=False)

    def judge(self, tactic: Tactic, key: str, outcome: Outcome, most_shared: int) -> None:
        """Keep or drop a tactic. `most_shared`: bytes of shared memory that a program may have."""
        if isinstance(outcome, str):
            self.dropped.append((tactic, outcome))
        elif outcome.shared > most_shared:
            self.dropped.append((tactic, f"{outcome.shared} bytes of shared memory, the target has {most_shared}"))
        elif outcome.stack:
            self._spilling.append(CompiledTactic(tactic, key, outcome, f"spills {outcome.stack} bytes"))
            self.dropped.append((tactic, self._spilling[-1].note))
        else:
            self.kept.append(CompiledTactic(tactic, key, outcome))

    def keep_least_spilling(self) -> None:
        """Of tactics that were all dropped. CompileError where none fits into shared memory."""
        if not self._spilling:
            reasons = "; ".join(dict.fromkeys(reason for _, reason in self.dropped)) or "it has no tactics"
            raise CompileError(f"kernel {self.task.kernel} cannot be compiled for {self.target}: {reasons}")
        least = min(self._spilling, key=lambda compiled: compiled.code.stack)
        self.dropped = [(tactic, reason) for tactic, reason in self.dropped if tactic is not least.tactic]
        self.kept.append(least)


class Compiler:
    """Compiles in `jobs` processes at a time; keeps what it makes in `cache`, if any."""

    def __init__(self, cache: CompileCache | None, jobs: int) -> None:
        self.cache, self.jobs = cache, jobs
        self.compiled = 0  # variants that were not in the cache
        self._outcomes: dict[str, Outcome] = {}

    def compile(
        self,
        tasks: Sequence[Task],
        targets: Sequence[str],
        most_tactics: int = MOST_TACTICS,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[dict[str, CompiledTask]]:
        """Each task for each target, with at most `most_tactics` tactics.

        `on_progress` gets the number of variants that are done, and of all. ValueError for a name that is not in
        TARGETS, and for a target that lacks a format of a task. CompileError where a task is left with no tactic.
        """
        targets = known_targets(targets)
        check_formats(tasks, targets)
        results = [{target: CompiledTask(task, target) for target in targets} for task in tasks]
        open_ = [(result, candidates(result.task, result.target)) for row in results for result in row.values()]
        while open_:  # once, but for tasks whose first tactics are all dropped
            tried = [(result, tactics[: _most(result.task, most_tactics)]) for result, tactics in open_]
            variants = [Variant(r.task, tactic, r.target) for r, tactics in tried for tactic in tactics]
            self._make(variants, on_progress)
            for result, tactics in tried:
                for tactic in tactics:
                    key = variant_key(Variant(result.task, tactic, result.target))
                    result.judge(tactic, key, self._outcomes[key], TARGETS[result.target].shared_bytes)
            open_ = [(r, tactics[_most(r.task, most_tactics) :]) for r, tactics in open_ if not r.kept]
            for result, tactics in open_:
                if not tactics:
                    result.keep_least_spilling()
            open_ = [(result, tactics) for result, tactics in open_ if tactics]
        return results

    def _make(self, variants: Sequence[Variant], on_progress: Callable[[int, int], None]) -> None:
        """Fill `_outcomes` for all variants: each key once, from the cache or by compiling."""
        by_key = {variant_key(variant): variant for variant in variants}
        missing: dict[str, Variant] = {}
        for key, variant in by_key.items():
            code = self._outcomes.get(key) or (self.cache.load(key) if self.cache is not None else None)
            if code is None:
                missing[key] = variant
            else:
                self._outcomes[key] = code
        done, total = len(by_key) - len(missing), len(by_key)
        on_progress(done, total)

        def on_done(variant: Variant, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            if self.cache is not None and isinstance(outcome, Code):
                self.cache.store(variant_key(variant), outcome)
            on_progress(done, total)

        keys = list(missing)
        outcomes = compile_variants([missing[key] for key in keys], self.jobs, on_done)
        self._outcomes.update({keys[index]: outcome for index, outcome in outcomes.items()})
        self.compiled += len(missing)


def candidates(task: Task, target: str) -> list[Tactic]:
    """The tactics of a task for a target, the best guess first."""
    tactics: list[Tactic] = kernel_module(task).tactics(task, target)
    return tactics


def tactics_to_try(task: Task, target: str, most_tactics: int = MOST_TACTICS) -> list[Tactic]:
    """The tactics that are compiled first; others only where all of these are dropped."""
    return candidates(task, target)[: _most(task, most_tactics)]


def _most(task: Task, most_tactics: int) -> int:
    return max(1, most_tactics) if task.flops else 1
