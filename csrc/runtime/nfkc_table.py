# SPDX-License-Identifier: Apache-2.0
"""Writes nfkc_table.inl from Python's own Unicode data: run it as `python csrc/runtime/nfkc_table.py`.

The table is text of base-64 digits. A number is a row of digits, lowest five bits first; all but its last digit have 32
added. Signed numbers are folded: 0, -1, 1, -2, ... Three lists, each preceded by its length:

- decompositions, by code point: gap since the last one, 2 * length + (1 where it may be composed again), and the code
  points, the first as the difference to the code point after that of the entry before, further ones to the one before;
- combining classes: gap, length and class of each run of code points.

Hangul syllables follow a rule and are left out.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HANGUL = range(0xAC00, 0xD7A4)


def characters() -> Iterator[int]:
    """All code points but surrogates and Hangul syllables."""
    return (code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code not in HANGUL)


def unsigned(value: int) -> str:
    text = ""
    while value >= 32:
        text += DIGITS[32 + value % 32]
        value //= 32
    return text + DIGITS[value]


def signed(value: int) -> str:
    return unsigned(2 * value if value >= 0 else -2 * value - 1)


def decompositions() -> str:
    entries = []
    last, first = 0, 0
    for code in characters():
        mapping = unicodedata.decomposition(chr(code)).split()
        if not mapping:
            continue
        composable = mapping[0][0] != "<" and len(mapping) == 2 and unicodedata.normalize("NFC", chr(code)) == chr(code)
        parts = [int(part, 16) for part in mapping if part[0] != "<"]
        text = unsigned(code - last) + unsigned(2 * len(parts) + composable) + signed(parts[0] - first)
        text += "".join(signed(part - before) for before, part in itertools.pairwise(parts))
        entries.append(text)
        last, first = code, parts[0] + 1
    return unsigned(len(entries)) + "".join(entries)


def combining_classes() -> str:
    runs: list[list[int]] = []  # first, last, class
    for code in characters():
        kind = unicodedata.combining(chr(code))
        if kind and runs and runs[-1][1] == code - 1 and runs[-1][2] == kind:
            runs[-1][1] = code
        elif kind:
            runs.append([code, code, kind])
    starts = [0, *(run[0] for run in runs)]
    texts = [unsigned(run[0] - start) + unsigned(run[1] - run[0] + 1) + unsigned(run[2])
             for run, start in zip(runs, starts, strict=False)]  # fmt: skip
    return unsigned(len(runs)) + "".join(texts)


def main() -> None:
    lines = textwrap.wrap(decompositions() + combining_classes(), 116)
    head = (
        "// SPDX-License-Identifier: Apache-2.0\n"
        f"// Unicode {unicodedata.unidata_version}: made by nfkc_table.py, which describes the form. Do not edit.\n"
        "// clang-format off\n"
    )
    Path(__file__).with_suffix(".inl").write_text(head + "".join(f'"{line}"\n' for line in lines))


if __name__ == "__main__":
    main()
