# SPDX-License-Identifier: Apache-2.0
"""Argument dataclasses and the words of a command line."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lightwam.cli.parse import Positional, parse
from lightwam.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of options."""

    steps: int
    """How often."""
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Wider(Group):
    """A group of more options."""

    extra: int = 1
    """Of the wider group: 100 % more."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Try every type."""

    file: Positional[Path]
    """The file."""
    name: str
    """Its name."""
    count: int | None = None
    numbers: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] | Literal["c"] | None = None
    switch: bool = False
    on: bool = True
    told: str = field(default="x", metadata={"help": "Told elsewhere."})
    group: Wider = Wider(steps=7, rate=0.25)


def read(words: str) -> Args:
    return parse(Args, "lightwam try", words.split())


def test_defaults_and_every_type() -> None:
    assert read("f --name n") == Args(file=Path("f"), name="n")
    words = "--name n --count -3 --numbers 4 5 6 --pair 1 2e3 --kind c --switch --no-on --steps 9 --extra 2 f"
    assert read(words.replace("--pair", "--pair")) == Args(
        file=Path("f"), name="n", count=-3, numbers=(4, 5, 6), pair=(1.0, 2000.0), kind="c", switch=True, on=False,
        group=Wider(steps=9, rate=0.25, extra=2),
    )  # fmt: skip


def test_forms_of_an_option() -> None:
    assert read("f --name=a_b --numbers").name == "a_b" and read("f --name n --numbers").numbers == ()
    assert read("f --name n --count None").count is None
    assert read("f --name n --no-switch --on") == read("f --name n")


@dataclass(frozen=True, kw_only=True)
class Required:
    """A group without a default of its own."""

    group: Group
    long_name: int = 3


def test_a_required_option_of_a_group_and_underscores() -> None:
    made = parse(Required, "p", ["--steps", "3", "--long_name=5"])
    assert made == Required(group=Group(steps=3), long_name=5)
    with pytest.raises(ConfigError, match="required: --steps"):
        parse(Required, "p", [])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("f", "required: --name"),
        ("f --name n --cuont 3", r"--cuont 3 \(is it --count\?\): 'lightwam try --help' lists the options"),
        ("f --name n --coun 3", "is it --count"),  # no abbreviations: a later option could change their meaning
        ("f --name n --count three", "--count: 'three' is not a whole number"),
        ("f --name n --rate fast", "--rate: 'fast' is not a number"),
        ("f --name n --kind d", "--kind: 'd' is unknown: choose one of a, b, c"),
        ("f --name n --pair 1", "--pair: expected 2 arguments"),
        ("f g --name n", "unrecognized arguments: g"),
        ("f --name", "--name: expected one argument"),
        ("f --name n --switch=3", "--switch: ignored explicit argument '3'"),
    ],
)
def test_wrong_words_are_one_line(words: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted) as caught:
        read(words)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Bare:
    count: int = 3


def test_without_docstrings_the_help_shows_no_signature(capsys: pytest.CaptureFixture[str]) -> None:
    """As under python -OO."""
    with contextlib.suppress(SystemExit):
        parse(Bare, "lightwam try", ["--help"])
    shown = capsys.readouterr().out
    assert "--count" in shown and "Bare(" not in shown


def test_the_help_shows_texts_defaults_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "usage: lightwam try", "Try every type.", "The file.", "Its name. (required)", "(default: 1 2)", "{a,b,c}",
        "Told elsewhere. (default: x)", "group options: A group of more options.", "How often. (default: 7)",
        "(default: 0.25)", "Of the wider group: 100 % more. (default: 1)", "(on unless --no-on is given)",
    ):  # fmt: skip
        assert text in shown, text
