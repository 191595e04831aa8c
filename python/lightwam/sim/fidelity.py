# SPDX-License-Identifier: Apache-2.0
"""Which simulator ran: the versions and the renderer that decide results."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from lightwam.identity import Fingerprint
from lightwam.sim.env import Simulator

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


def unknown_in(earlier: Fingerprint, identity: Fingerprint) -> Fingerprint:
    """Those parts of `identity` that recordings did not say before they said which simulator ran."""
    said = any(name.startswith(VERSION) or name == RENDERER for name in earlier)
    return {} if said else {n: value for n, value in identity.items() if n.startswith(VERSION) or n == RENDERER}
