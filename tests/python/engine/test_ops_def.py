# SPDX-License-Identifier: Apache-2.0
"""The list of ops in C++ (csrc/engine/ops.def) names the ops and roles of the table in Python."""

from __future__ import annotations

import re
from pathlib import Path

from lightwam.engine.ops import OPS, Role

LIST = Path(__file__).parents[3] / "csrc" / "engine" / "ops.def"
LINE = re.compile(r'^LIGHTWAM_OP\((\w+),\s*"([^"]*)", "([^"]*)", "([^"]*)", (?:whole|row_wise)\)$', re.MULTILINE)


def _roles(text: str) -> set[Role]:
    entries = [re.fullmatch(r"(\w+)([?=*]*)", entry) for entry in text.split()]
    return {
        Role(entry[1], optional="?" in entry[2], in_place="=" in entry[2], variadic="*" in entry[2])
        for entry in entries
        if entry is not None
    }


def test_both_lists_have_the_same_ops_and_roles() -> None:
    text = LIST.read_text()
    listed = {
        name: (_roles(inputs), _roles(constants), outputs) for name, inputs, constants, outputs in LINE.findall(text)
    }
    assert len(listed) == len(re.findall(r"^LIGHTWAM_OP\(", text, re.MULTILINE))
    assert list(listed) == list(OPS)
    for name, (inputs, constants, outputs) in listed.items():
        spec = OPS[name]
        assert inputs == set(spec.inputs), name
        assert constants == set(spec.constants), name
        assert tuple(outputs.replace("?", "").split()) == spec.outputs, name
