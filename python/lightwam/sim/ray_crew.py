# SPDX-License-Identifier: Apache-2.0
"""Trials on the machines of a Ray cluster: a worker for each, with a CPU of its own.

A worker takes the policy by content: the file at the same path if it is the same, otherwise the bytes that travel with
the job. A lost worker's trial is done again by another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from lightwam.errors import ConfigError, SimulatorError
from lightwam.files import replacing_file
from lightwam.sim.closed_loop import Trial
from lightwam.sim.crew import Assignment, Results, Work, Worker, make_worker, task_of
from lightwam.sim.env import Task
from lightwam.sim.films import Films
from lightwam.sim.registry import load_simulator
from lightwam.sim.reports import environment_report
from lightwam.workers import next_job

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # of a piece of work whose worker is lost
_MUST_AGREE = ("versions", "renderer", "python")


class _RemoteWorker:
    """A `Worker` on some machine, with a folder of its own for the policy and for films."""

    def __init__(self, to: Assignment, content: bytes) -> None:
        self._to, self._content = to, content
        self._folder = tempfile.TemporaryDirectory(prefix="lightwam-")
        self._films = Path(self._folder.name)
        self._worker: Worker | None = None  # made at the first work, whose error then says why it cannot be

    def do(self, work: Work) -> tuple[Trial | None, dict[str, bytes]]:
        """The outcome, and the films that were made: name -> content."""
        self._worker = self._worker or self._made()
        trial = self._worker.do(work)
        films = {}
        for path in self._films.glob("*.mp4"):
            films[path.name] = path.read_bytes()
            path.unlink()
        return trial, films

    def _made(self) -> Worker:
        source, path = self._to.policy, self._to.policy.path
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
            path = self._films / path.name
            path.write_bytes(self._content)
        films = replace(self._to.films, folder=self._films) if self._to.films.folder else Films()
        return make_worker(replace(self._to, policy=replace(source, path=path), films=films))


def _describe(sim: str) -> dict[str, Any]:
    """What must agree on all machines, as it is on this one."""
    simulator = load_simulator(sim)
    simulator.task(None, None)  # chooses the renderer
    report = environment_report(simulator)
    return {name: report.get(name) for name in _MUST_AGREE}


def _connect(address: str) -> None:
    """Connect this process to a cluster, unless it is. Signals stay ours. Raises ConfigError."""
    if ray.is_initialized():
        return
    _knock(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, namespace="lightwam-eval")
    except (ConnectionError, RayError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"no Ray cluster at --ray {address} ({told}): start one with `ray start`") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _knock(address: str) -> None:
    """Raises ConfigError where nobody listens at host:port. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at --ray {address} ({error}): start one with `ray start`") from error


@dataclass
class _Member:
    """A worker and what it works at."""

    actor: Any
    job: int | None = None
    group: Task | None = None


class RayCrew:
    """Workers on the cluster at `address`, as many as it has CPUs unless `count` says."""

    def __init__(self, to: Assignment, address: str, count: int | None = None) -> None:
        _connect(address)
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < 1:
            raise ConfigError(f"the Ray cluster at {address} has no CPU to give: start it with `ray start --num-cpus`")
        threads = to.policy.threads or 1
        self._to = replace(to, policy=replace(to.policy, threads=threads))
        self._count = min(count or cpus, cpus)
        self._content = ray.put(to.policy.path.read_bytes())
        self._checked = False

    def do(self, works: Sequence[Work]) -> Results:
        """As `Crew.do`. Raises SimulatorError where a machine differs in versions or renderer, by name."""
        self._check_machines()
        members: list[_Member] = []
        waiting, tried = list(range(len(works))), [0] * len(works)
        running: dict[Any, _Member] = {}
        try:
            while waiting or running:
                self._hand_out(works, waiting, members, running)
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                member = running.pop(done)
                index, member.job = member.job, None
                assert index is not None
                tried[index] += 1
                try:
                    trial, films = ray.get(done)
                except ray.exceptions.RayTaskError as error:  # the work's own error
                    raise _cause(error) from error
                except RayError as error:
                    members.remove(member)
                    self._lost(error, tried[index], works[index])
                    waiting.insert(0, index)
                    continue
                self._keep(films)
                yield works[index], trial
        finally:
            for member in members:
                with contextlib.suppress(RayError):
                    ray.kill(member.actor)

    def _hand_out(
        self, works: Sequence[Work], waiting: list[int], members: list[_Member], running: dict[Any, _Member]
    ) -> None:
        """Give waiting work to idle workers, and to new ones."""
        idle = [member for member in members if member.job is None]
        while waiting and (idle or len(members) < self._count):
            member = idle.pop() if idle else self._hire(members)
            member.job = next_job(works, waiting, member, members, task_of)
            running[member.actor.do.remote(works[member.job])] = member

    def _hire(self, members: list[_Member]) -> _Member:
        actor = ray.remote(num_cpus=1, max_restarts=0)(_RemoteWorker)
        members.append(_Member(actor.remote(self._to, self._content)))
        return members[-1]

    def _lost(self, error: RayError, tries: int, work: Work) -> None:
        told = f"a Ray worker was lost ({type(error).__name__}) at {_told(work)}"
        if tries >= _ATTEMPTS:
            raise SimulatorError(f"{told}, {tries} times: look at the cluster's logs, or at its memory") from error
        log.warning("%s: it is done again by another one", told)

    def _keep(self, films: dict[str, bytes]) -> None:
        for name, content in films.items():
            folder = self._to.films.folder or Path()
            with replacing_file(folder / name) as building:
                building.write_bytes(content)

    def _check_machines(self) -> None:
        """Raises SimulatorError where a machine has other versions or another renderer than this one, by name."""
        if self._checked:
            return
        here, describe = _describe(self._to.sim), ray.remote(num_cpus=0)(_describe)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Place

        for node in (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")):
            name = node["NodeManagerHostname"]
            try:
                there = ray.get(
                    describe.options(scheduling_strategy=Place(node["NodeID"], soft=False)).remote(self._to.sim)
                )
            except RayError as error:
                told = " ".join(str(_cause(error)).split())
                raise SimulatorError(f"machine {name} of the Ray cluster cannot run trials: {told}") from error
            for what in _MUST_AGREE:
                if there[what] != here[what]:
                    told = f"has other {what}: {there[what]}, here {here[what]}"
                    raise SimulatorError(f"machine {name} of the Ray cluster {told}; install the same")
        self._checked = True


def _cause(error: Exception) -> Exception:
    """What the remote function raised itself."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _told(work: Work) -> str:
    return f"the check of {work.name}" if isinstance(work, Task) else f"trial {work.index} of {work.task.name}"
