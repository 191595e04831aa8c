# SPDX-License-Identifier: Apache-2.0
"""A verb's argument dataclass <-> its options, with the standard library alone.

Each field is an option, `--replan-steps` for `replan_steps`; `Positional[...]` makes it an argument without a name. The
string under a field is its help (or the metadata "help" of a computed one). A field that is a dataclass is a group: a
heading in the help, and options without a prefix. Types: bool, int, float, str, Path, Literal, tuples, and None beside
any of them.

A verb whose defaults depend on an option (a recipe, say) has `defaults_follow`, the names of such options, and a
classmethod `defaults(given)` that turns what was given of them into the groups that hold the defaults.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from lightwam.errors import ConfigError

T = TypeVar("T")
_POSITIONAL = "positional"
Positional = Annotated[T, _POSITIONAL]

_NAMES: dict[object, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


def parse(arguments: type[T], prog: str, words: Sequence[str]) -> T:
    """The dataclass from the words after the verb. Raises `ConfigError` for words that do not fit; --help exits."""
    words = [_hyphens(word) for word in words]
    base = _base(arguments, prog, words)
    values = vars(_parser(arguments, prog, base).parse_args(words))
    return _build(arguments, values, base)


class _Parser(argparse.ArgumentParser):
    """Errors are ours: one line, with the option that was meant where one is near."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        unknown = [word for word in message.split() if word.startswith("--") and word.rstrip(":") not in known]
        near = difflib.get_close_matches(unknown[0], known, 1) if unknown else []
        meant = f" (is it {near[0]}?)" if near else ""
        raise ConfigError(f"{message.removeprefix('argument ')}{meant}: '{self.prog} --help' lists the options")


@dataclass(frozen=True)
class _Option:
    """A field that is no group. `default` is `dataclasses.MISSING` where it must be given."""

    name: str
    kind: Any
    default: Any
    help: str
    positional: bool

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def _base(arguments: Any, prog: str, words: Sequence[str]) -> Any:
    """Defaults that follow from options (see the module's docstring), as an object with attributes; else MISSING."""
    if not hasattr(arguments, "defaults_follow"):
        return dataclasses.MISSING
    first = _Parser(prog=prog, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for _, _, options in _groups(arguments):
        for option in options:
            if option.name in arguments.defaults_follow:
                _add(first, replace(option, default=None))
    given, _ = first.parse_known_args(words)
    known = {field.name: _default(field) for field in dataclasses.fields(arguments)}
    return SimpleNamespace(**{**known, **arguments.defaults(vars(given))})


def _parser(arguments: type, prog: str, base: Any = dataclasses.MISSING) -> _Parser:
    about = _about(arguments)
    parser = _Parser(prog=prog, description=about, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for title, about, options in _groups(arguments, base):
        group = parser.add_argument_group(f"{title} options", about) if title else parser
        for option in options:
            _add(group, option)
    return parser


def _about(cls: type) -> str:
    """The docstring; nothing where python -OO left it out, and the dataclass has its signature in its place."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return "" if text.startswith(f"{cls.__name__}(") else text


def _groups(cls: Any, given: Any = dataclasses.MISSING, title: str = "") -> Iterator[tuple[str, str, list[_Option]]]:
    """(title, description, options) of the dataclass and of its groups. `given`: an instance with the defaults."""
    hints, helps = get_type_hints(cls, include_extras=True), _field_docs(cls)
    options, inner = [], []
    for field in dataclasses.fields(cls):
        default = _default(field) if given is dataclasses.MISSING else getattr(given, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            inner.append((hints[field.name], default, field.name))
            continue
        kind, positional = hints[field.name], False
        if get_origin(kind) is Annotated:
            kind, positional = get_args(kind)[0], _POSITIONAL in get_args(kind)
        text = field.metadata.get("help") or helps.get(field.name, "")
        options.append(_Option(field.name, kind, default, text, positional))
    yield title, _about(cls) if title else "", options
    for group, default, name in inner:
        yield from _groups(group, default, name)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _field_docs(cls: type) -> dict[str, str]:
    """The string under each field; nothing where there is no source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        for field, text in pairwise(getattr(tree, "body", ())):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docs


def _add(group: Any, option: _Option) -> None:
    """Add one option to a parser, or to a group of it."""
    kind, may_be_none = _without_none(option.kind)
    if kind is bool:
        group.add_argument(option.flag, action="store_true", help=_help(option))
        group.add_argument(f"--no-{option.flag[2:]}", dest=option.name, action="store_false", help=argparse.SUPPRESS)
        return
    more: dict[str, Any] = {"help": _help(option)}
    if get_origin(kind) is tuple:
        kind, *others = get_args(kind)
        more["nargs"] = "*" if others == [...] else 1 + len(others)
        kind, _ = _without_none(kind)
    choices = _choices(kind)
    more["metavar"] = "{" + ",".join(choices) + "}" if choices else _NAMES[kind]
    more["type"] = _reader(kind, choices, may_be_none and "nargs" not in more)
    if option.positional:
        group.add_argument(option.name, **{**more, "metavar": option.name.upper()})
    else:
        group.add_argument(option.flag, dest=option.name, required=option.default is dataclasses.MISSING, **more)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """The type without a None beside it, and whether there was one. Literals that are joined stay joined."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    others = tuple(one for one in get_args(kind) if one is not NoneType)
    return (others[0] if len(others) == 1 else Union[others]), len(others) < len(get_args(kind))  # noqa: UP007


def _choices(kind: Any) -> list[str]:
    """The words that Literals allow, in order; none for another type."""
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in (Union, UnionType):
        return [choice for one in get_args(kind) for choice in _choices(one)]
    return []


def _reader(kind: Any, choices: list[str], may_be_none: bool) -> Callable[[str], Any]:
    """What turns a word into a value; the word None is None where the field allows it."""

    def read(word: str) -> Any:
        if may_be_none and word == "None":
            return None
        if choices:
            if word not in choices:
                raise argparse.ArgumentTypeError(f"{word!r} is unknown: choose one of {', '.join(choices)}")
            return word
        try:
            return kind(word)
        except ValueError:
            what = {int: "a whole number", float: "a number"}.get(kind, "valid")
            raise argparse.ArgumentTypeError(f"{word!r} is not {what}") from None

    return read


def _help(option: _Option) -> str:
    """The option's text, and its default where the text does not tell what happens without it."""
    text = option.help
    default = option.default
    if default is dataclasses.MISSING:
        text += "" if option.positional else " (required)"
    elif default is True:
        text += f" (on unless --no-{option.flag[2:]} is given)"
    elif default is not None and default is not False and default != ():
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    return text.strip().replace("%", "%%")


def _hyphens(word: str) -> str:
    """`--image_size=8` is `--image-size=8`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _build(cls: type[T], values: dict[str, Any], given: Any = dataclasses.MISSING) -> T:
    """The dataclass from the options that were given; the rest has its defaults."""
    hints = get_type_hints(cls)
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = _default(field) if given is dataclasses.MISSING else getattr(given, field.name)
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            chosen[field.name] = _build(kind, values, default)  # type: ignore[arg-type]
        elif field.name in values:
            value = values[field.name]
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
        else:
            chosen[field.name] = default
    return cls(**chosen)
