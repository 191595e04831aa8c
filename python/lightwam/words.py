# SPDX-License-Identifier: Apache-2.0
"""The text of an instruction, and its words -> rows of the hashed-words table: the same in training, engines and C++.

C++'s half is csrc/runtime/instruction_text.cpp and text.cpp; docs/reference/engine-format.md has the rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_FNV_OFFSET, _FNV_PRIME, _FNV_MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")

# The same lists as in csrc/runtime/instruction_text.cpp. White space, and what umT5's tokenizer takes for it.
_SPACES = ((0x09, 0x0A), (0x0C, 0x0D), (0x85, 0x85), (0x61C, 0x61C), (0x1680, 0x1680), (0x200B, 0x200C),
           (0x200E, 0x200F), (0x2028, 0x2029), (0x2581, 0x2581), (0xFFFD, 0xFFFD))  # fmt: skip
# Control characters, and what shows nothing.
_INVISIBLE = ((0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x115F, 0x1160), (0x180B, 0x180F),
              (0x200D, 0x200D), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F),
              (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF9, 0xFFFC), (0xE0000, 0xE0FFF))  # fmt: skip
_SINGLE_QUOTES, _DOUBLE_QUOTES = ((0x2BC, 0x2BC), (0x2018, 0x201B)), ((0x201C, 0x201F),)


def _codes(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    return (code for first, last in ranges for code in range(first, last + 1))


_PLAIN: dict[int, str | None] = {
    **dict.fromkeys(_codes(_INVISIBLE), None),
    **dict.fromkeys(_codes(_SPACES), " "),
    **dict.fromkeys(_codes(_SINGLE_QUOTES), "'"),
    **dict.fromkeys(_codes(_DOUBLE_QUOTES), '"'),
}


def clean_instruction(text: str) -> str:
    """The text as text encoders were trained on it.

    White space of any kind and length is one space, control characters and invisible ones are nothing, curly quotes
    are straight, and letters are in Unicode's form NFKC: two texts that look alike are one.
    """
    return " ".join(unicodedata.normalize("NFKC", text.translate(_PLAIN)).translate(_PLAIN).split())


def fnv1a_64(data: bytes) -> int:
    """FNV-1a, 64 bit."""
    value = _FNV_OFFSET
    for byte in data:
        value = ((value ^ byte) * _FNV_PRIME) & _FNV_MASK
    return value


def split_words(text: str) -> list[str]:
    """Words of the cleaned text: ASCII letters lower-cased, split at every byte that is no letter, digit or >= 0x80."""
    return [word.lower().decode() for word in _WORD.findall(clean_instruction(text).encode())]


def word_buckets(text: str, buckets: int) -> list[int]:
    """The row of the table for each word."""
    return [fnv1a_64(word.encode()) % buckets for word in split_words(text)]
