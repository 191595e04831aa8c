# SPDX-License-Identifier: Apache-2.0
"""HTML from text that may hold anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """An element. Content and attributes are escaped unless they are `Markup`; `class_` is `class`, `_` is `-`.

    An attribute of True has no value; False and None leave it out.
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{name}{told}>{join(content)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """The parts one after the other, escaped unless they are `Markup`."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def rows_of(cells: Iterable[Sequence[str]], first: str = "th") -> Markup:
    """Table rows; the first cell of each is its header."""
    made = []
    for line in cells:
        head = tag(first, line[0], scope="row" if first == "th" else None)
        made.append(tag("tr", head, *(tag("td", cell) for cell in line[1:])))
    return join(made)


def head_of(names: Sequence[str]) -> Markup:
    """A table's head."""
    return tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
