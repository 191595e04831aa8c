# SPDX-License-Identifier: Apache-2.0
"""Random changes of a good engine, and random bytes: accepted and run, or refused; never a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.engine_files import small_engine, write_engine
from helpers.gpu_plans import small_gpu_engine
from helpers.hostile_files import loads_or_is_refused, refused

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "f32", "bf16", "arena", "state", "key", "actions", "linear", "silu", "conv.weight"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "weight", "eps"]), inner),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


PLACES = [place for place in places(small_engine().document) if place]


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_anywhere(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    engine = small_engine()
    target: Any = engine.document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    loads_or_is_refused(write_engine(tmp_path / "fuzzed.lwam", engine))


PLAN_PLACES = [("gpu", *place) for place in places(small_gpu_engine().document["gpu"])]
PLAN_JSON = JSON | st.sampled_from(
    ["b", "w", "r", "sm_87", "sm_087", "sm_90", "gpu.sm_87", "input", "output", 0, 16, 64, 2**34]
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLAN_PLACES), value=PLAN_JSON)
def test_any_value_anywhere_in_a_launch_plan(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    engine = small_gpu_engine()
    target: Any = engine.document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    loads_or_is_refused(write_engine(tmp_path / "fuzzed.lwam", engine))


NUMBERS = [
    place for place in PLACES if place[-1] in ("offset", "arena_bytes", "heads", "stride") or "shape" in place[:-1]
]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(NUMBERS), st.sampled_from([0, 1, 2, 3, 4, 8, 32, 64, 128, 256, 1024, 4096])),
        min_size=1,
        max_size=4,
    )
)
def test_plausible_numbers_anywhere(tmp_path: Path, changes: list[tuple[tuple[Any, ...], int]]) -> None:
    engine = small_engine()
    for place, number in changes:
        target: Any = engine.document
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = number
    loads_or_is_refused(write_engine(tmp_path / "fuzzed.lwam", engine))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzzed.lwam"
    path.write_bytes(content)
    refused(path, "engine file")
