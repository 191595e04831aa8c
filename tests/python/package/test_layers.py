# SPDX-License-Identifier: Apache-2.0
"""No circle of imports, lazy ones included. `make lint` checks the order of rooms and circles between siblings; here a
package that imports its own module counts too, when that module imports the package."""

from __future__ import annotations

from collections.abc import Mapping

import grimp


def in_circles(imports: Mapping[str, set[str]]) -> set[str]:
    """Modules on circles, and between two of them."""
    left = {module: imported - {module} for module, imported in imports.items()}
    while True:
        imported = set().union(*left.values())
        ends = {module for module in left if not left[module] & left.keys() or module not in imported}
        if not ends:
            return set(left)
        left = {module: left[module] - ends for module in left.keys() - ends}


def test_no_circles() -> None:
    graph = grimp.build_graph("lightwam", cache_dir=None)
    assert len(graph.modules) > 100
    # The extension: without source, it counts as the package it lies in.
    graph.remove_import(importer="lightwam.runtime.policy", imported="lightwam.runtime")
    assert in_circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == set()


def test_what_a_circle_is() -> None:
    chain = {"a": {"b"}, "b": {"c", "x"}, "c": set(), "d": {"a"}}
    assert in_circles(chain) == set()
    assert in_circles({**chain, "c": {"a"}, "e": {"d"}}) == {"a", "b", "c"}
