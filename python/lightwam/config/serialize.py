# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses to and from JSON-ready mappings, with every field's type checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lightwam.config.checks import LARGEST_INTEGER, as_float
from lightwam.errors import ConfigError
from lightwam.files import short

T = TypeVar("T")


def dataclass_to_dict(instance: Any) -> dict[str, Any]:
    """Nested dataclasses become mappings, tuples become lists."""
    result = _to_json(instance)
    assert isinstance(result, dict)
    return result


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _to_json(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def dataclass_from_dict(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build `cls` out of a mapping; `where` names the place in error messages. Raises `ConfigError`."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} is {mapping!r}: it must be a mapping")
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(mapping) - set(entries))
    if unknown:
        raise ConfigError(f"{where} has unknown fields {unknown}: use fields out of {sorted(entries)}")
    missing = sorted(
        name
        for name, entry in entries.items()
        if name not in mapping and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    )
    if missing:
        raise ConfigError(f"{where} lacks the fields {missing}: give each a value")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_json(hints[name], value, f"{where}.{name}") for name, value in mapping.items()})


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint (dataclass, union, tuple, literal or scalar) and convert lists to tuples."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _from_json(next(item for item in arguments if item is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {short(value)}: use one of {arguments}")
        return value
    if origin is tuple:
        return _tuple_from_json(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return dataclass_from_dict(typing.cast(type[Any], hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = as_float(value, where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {short(value)}: it must be of type {hint.__name__}")
    if hint is int and abs(value) > LARGEST_INTEGER:
        raise ConfigError(f"{where} is {short(value)}: it must be at most {LARGEST_INTEGER}")
    return as_float(value, where) if hint is float else value


def _tuple_from_json(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {short(value)}: it must be a list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} is {short(value)}: it must have {len(arguments)} entries")
    return tuple(_from_json(item, entry, where) for item, entry in zip(arguments, value, strict=True))
