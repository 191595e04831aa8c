# SPDX-License-Identifier: Apache-2.0
"""The documentation holds together: links, anchors, cited pages and sections exist, and README leads to every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for folder in ("python", "kernels", "csrc", "cmake", "tests", "benchmarks", "examples")
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in (".py", ".cpp", ".hpp", ".h", ".inl", ".c", ".sh", ".cmake", ".txt") and path.resolve() == path
)

LINK = re.compile(r"""\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|(?:href|src)="([^"]+)"|^\[[^\]]+\]:\s+(\S+)""", re.M)
NUMBERED_HEADING = re.compile(r"^#+ (\d+(?:\.\d+)*)\.? ", re.M)
PATH_CITED = re.compile(r"\bdocs/[\w./-]*\w")
SECTION_CITED = re.compile(
    r"(?P<page>[\w./-]+\.md),? sections? (?P<number>\d+(?:\.\d+)*)"
    r"|[Ss]ections? (?P<number_before>\d+(?:\.\d+)*) of (?P<page_after>[\w./-]+\.md)"
)
LINE_OF_ONE_LINK = re.compile(r"(?:[-*] )?!?\[.*\]\(\S+\)[.,;]?")


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def prose(text: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of a page outside its fenced code."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        elif not fence:
            yield number, line


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures that lie in this repository."""
    text = "\n".join(line for _, line in prose(page.read_text(encoding="utf-8")))
    targets = ["".join(groups) for groups in LINK.findall(re.sub(r"`[^`\n]*`", "", text))]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for _, line in prose(page.read_text(encoding="utf-8")):
        if heading := re.match(r"#+ (.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1].strip().lower())
            name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def target_of(page: Path, link: str) -> Path:
    path = link.partition("#")[0]
    return (page.parent / path).resolve() if path else page


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_anchors_exist(page: Path) -> None:
    for link in links(page):
        target, anchor = target_of(page, link), link.partition("#")[2]
        assert target.exists() and target.is_relative_to(REPOSITORY), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: {named(target)} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short(page: Path) -> None:
    """At most 120 columns outside tables, code and lines that are one link."""
    long = [
        number
        for number, line in prose(page.read_text(encoding="utf-8"))
        if len(line) > 120 and not line.lstrip().startswith("|") and not LINE_OF_ONE_LINK.fullmatch(line.strip())
    ]
    assert not long, f"{named(page)}: lines {long} are longer than 120 columns"


def test_readme_leads_to_every_page() -> None:
    start = REPOSITORY / "README.md"
    reached, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        found = {target_of(page, link) for link in links(page)} & set(PAGES) - reached
        reached |= found
        waiting += sorted(found)
    assert [named(page) for page in PAGES if page not in reached] == []


def page_named(name: str) -> Path | None:
    """The page of a path from the root, or of a file name that only one page has."""
    found = [page for page in PAGES if named(page) == name or ("/" not in name and page.name == name)]
    return found[0] if len(found) == 1 else None


def test_pages_and_sections_that_sources_and_pages_cite_exist() -> None:
    wrong = []
    for path in (*SOURCES, *PAGES):
        if path == Path(__file__):
            continue
        text = re.sub(r"\s*\n\s*(?:#|//|\*)?\s*", " ", path.read_text(encoding="utf-8"))  # citations run over lines
        wrong += [f"{named(path)}: {cited}" for cited in PATH_CITED.findall(text) if not (REPOSITORY / cited).exists()]
        wrong += [f"{named(path)}: {cited}" for cited in re.findall(r"\bspec,? sections? \d+", text)]
        for match in SECTION_CITED.finditer(text):
            page = page_named((match["page"] or match["page_after"]).removeprefix("./"))
            number = match["number"] or match["number_before"]
            if page is None or number not in NUMBERED_HEADING.findall(page.read_text(encoding="utf-8")):
                wrong.append(f"{named(path)}: {match[0]}")
    assert wrong == []


def test_what_the_checks_see(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '# A *b*: `c`\n## Two\n## Two\n[x](a.md#two), ![y](p.png "t"), `[no](code.md)`, [z](https://e.org)\n'
        '<img src="q.png">\n```\n[no](fenced.md)\n# no heading\n```\n[r]: other.md\n'
    )
    assert links(page) == ["a.md#two", "p.png", "q.png", "other.md"]
    assert anchors(page) == {"a-b-c", "two", "two-1"}
    cited = [match.group() for match in SECTION_CITED.finditer("runtime.md, section 4.1); Section 2 of docs/a.md.")]
    assert cited == ["runtime.md, section 4.1", "Section 2 of docs/a.md"]
