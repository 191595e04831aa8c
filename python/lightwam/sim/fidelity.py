# SPDX-License-Identifier: Apache-2.0
"""Which simulator ran: the versions and the renderer that decide results, and whether they are the faithful ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import metadata

from lightwam.errors import SimulatorError
from lightwam.identity import Fingerprint
from lightwam.sim.env import Simulator
from lightwam.terminal import table

log = logging.getLogger(__name__)

VERSION, RENDERER = "version of ", "renderer"  # names in an identity


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def simulator_identity(simulator: Simulator) -> Fingerprint:
    """Versions and renderer, as parts of what a recording depends on."""
    versions = {f"{VERSION}{name}": version for name, version in package_versions(simulator.packages).items()}
    return {**versions, RENDERER: simulator.renderer()}


def refuse_unfaithful(simulator: Simulator, any_simulator: bool) -> None:
    """Before work whose result depends on the simulator's versions: refuse others than the faithful ones, or warn.

    any_simulator: they are wanted. Raises SimulatorError where they are not, and the simulator requires faithful ones.
    """
    faithful = simulator.faithful
    if faithful is None:
        return
    there = package_versions(tuple(faithful.versions))
    others = {name: there[name] for name, version in faithful.versions.items() if there.get(name, version) != version}
    if not others:
        return
    told = ", ".join(f"{name} {version} instead of {faithful.versions[name]}" for name, version in others.items())
    if faithful.required and not any_simulator:
        install = " ".join(f"{name}=={faithful.versions[name]}" for name in others)
        raise SimulatorError(
            f"{simulator.name} runs with {told}; {faithful.changes}: pip install {install}, "
            "or give --any-simulator to run with what is there"
        )
    log.warning("%s runs with %s: %s", simulator.name, told, faithful.changes)


def check_simulator(simulator: Simulator) -> bool:
    """Prints versions and signs beside the faithful ones; whether all are faithful. Takes seconds.

    Raises SimulatorError where the simulator has nothing to check.
    """
    faithful = simulator.faithful
    if faithful is None:
        raise SimulatorError(f"simulator {simulator.name!r} has no faithful versions: there is nothing to check")
    signs = simulator.signs()
    there = package_versions(simulator.packages)
    rows, all_hold = [], True
    for name, version in there.items():
        wanted = faithful.versions.get(name, "")
        all_hold &= wanted in ("", version)
        rows.append((name, version, wanted or "any", "" if wanted in ("", version) else "another"))
    rows.append((RENDERER, str(simulator.renderer()), "any", ""))
    for sign in signs:
        all_hold &= sign.holds()
        limits = f"{_figures(sign.faithful)} +- {sign.tolerance:g}"
        rows.append((sign.name, _figures(sign.measured), limits, "" if sign.holds() else "another"))
    print(table(("", "here", "faithful", ""), rows, f"{simulator.name}: is it the simulator of the published results?"))
    print("faithful" if all_hold else f"not faithful: {faithful.changes}")
    return all_hold


def _figures(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)


def unknown_in(earlier: Fingerprint, identity: Fingerprint) -> Fingerprint:
    """Those parts of `identity` that recordings did not say before they said which simulator ran."""
    said = any(name.startswith(VERSION) or name == RENDERER for name in earlier)
    return {} if said else {n: value for n, value in identity.items() if n.startswith(VERSION) or n == RENDERER}
