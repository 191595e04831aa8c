# SPDX-License-Identifier: Apache-2.0
"""Stands in for the package `ray`: actors of this process, run when they are waited for; some get lost on demand."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class RayError(Exception):
    """As ray.exceptions.RayError."""


class RayTaskError(RayError):
    """What a remote function raised, as `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ToyRay:
    """The cluster: `cpus`, `lose` (how many of the next calls lose their actor), `hired`, `nodes`."""

    def __init__(self) -> None:
        self.cpus, self.lose, self.hired, self.killed = 2, 0, 0, 0
        self.describes: dict[str, Any] = {}  # node name -> what its description differs in

    def remote(self, **options: Any) -> Any:
        return lambda made: _Class(self, made) if isinstance(made, type) else _Function(self, made)

    def get(self, ref: Any) -> Any:
        return ref()

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be `ray` in this test."""
        exceptions, strategies = ModuleType("ray.exceptions"), ModuleType("ray.util.scheduling_strategies")
        exceptions.__dict__.update(RayError=RayError, RayTaskError=RayTaskError)
        strategies.__dict__.update(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        nodes = [{"Alive": True, "Resources": {"CPU": 1}, "NodeManagerHostname": n, "NodeID": n} for n in ("a", "b")]
        module = ModuleType("ray")
        module.__dict__.update(
            exceptions=exceptions, remote=self.remote, get=self.get, kill=self.kill, put=lambda value: value,
            wait=lambda refs, num_returns: (refs[:1], refs[1:]), is_initialized=lambda: True, nodes=lambda: nodes,
            cluster_resources=lambda: {"CPU": self.cpus} if self.cpus else {},
        )  # fmt: skip
        for name, value in (("ray", module), ("ray.exceptions", exceptions), ("ray.util", ModuleType("ray.util")),
                            ("ray.util.scheduling_strategies", strategies)):  # fmt: skip
            monkeypatch.setitem(sys.modules, name, value)
        monkeypatch.delitem(sys.modules, "lightwam.sim.ray_crew", raising=False)


class _Class:
    def __init__(self, ray: ToyRay, made: type) -> None:
        self.ray, self.made = ray, made

    def remote(self, *given: Any) -> Any:
        self.ray.hired += 1
        actor = self.made(*pickle.loads(pickle.dumps(given)))  # it travels
        return SimpleNamespace(do=SimpleNamespace(remote=lambda work: _Call(self.ray, actor, work)))


class _Call:
    """A result that is still to come."""

    def __init__(self, ray: ToyRay, actor: Any, work: Any) -> None:
        self.ray, self.actor, self.work = ray, actor, work

    def __call__(self) -> Any:
        if self.ray.lose:
            self.ray.lose -= 1
            raise RayError("the actor died")
        try:
            return self.actor.do(self.work)
        except Exception as error:
            raise RayTaskError(error) from error


class _Function:
    def __init__(self, ray: ToyRay, made: Any, node: str = "a") -> None:
        self.ray, self.made, self.node = ray, made, node

    def options(self, scheduling_strategy: str) -> _Function:
        return _Function(self.ray, self.made, scheduling_strategy)

    def remote(self, *given: Any) -> Any:
        return lambda: {**copy.deepcopy(self.made(*given)), **self.ray.describes.get(self.node, {})}
