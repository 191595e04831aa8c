# SPDX-License-Identifier: Apache-2.0
"""What a test reads from an HTML page: tables by id, elements by name, texts of scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "br", "col", "input", "img", "link"}


@dataclass
class Element:
    """An element, all text in it, and whether it or one around it is hidden."""

    name: str
    attributes: dict[str, str]
    hidden: bool
    text: str = ""


@dataclass
class Page(HTMLParser):
    """`elements` in their order; `tables`: id -> rows that are not hidden -> texts of cells that are not hidden."""

    content: str
    elements: list[Element] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self.feed(self.content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        hidden = "hidden" in given or bool(self._open and self._open[-1].hidden)
        element = Element(tag, given, hidden)
        self.elements.append(element)
        if tag in _VOID:
            return
        self._open.append(element)
        if tag == "table":
            self.tables[given.get("id", "")] = []
        elif tag == "tr" and not hidden:
            self._table().append([])

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            element = self._open.pop()
            if element.name in ("td", "th") and not element.hidden:
                self._table()[-1].append(" ".join(element.text.split()))
            if element.name == tag:
                return

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def find(self, **attributes: str) -> list[Element]:
        """Elements with these attributes; `name` is the element's own."""
        name = attributes.pop("name", None)
        return [
            one
            for one in self.elements
            if name in (None, one.name) and all(one.attributes.get(key) == value for key, value in attributes.items())
        ]

    def _table(self) -> list[list[str]]:
        tables = [one for one in self._open if one.name == "table"]
        return self.tables[tables[-1].attributes.get("id", "")]
