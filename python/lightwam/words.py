# SPDX-License-Identifier: Apache-2.0
"""Words of an instruction -> rows of the hashed-words table: the same in training, in engines and in C++."""

from __future__ import annotations

import re

_FNV_OFFSET, _FNV_PRIME, _FNV_MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")


def fnv1a_64(data: bytes) -> int:
    """FNV-1a, 64 bit."""
    value = _FNV_OFFSET
    for byte in data:
        value = ((value ^ byte) * _FNV_PRIME) & _FNV_MASK
    return value


def word_buckets(text: str, buckets: int) -> list[int]:
    """The bucket of each word: ASCII letters lower-cased, split at every byte that is no letter, digit or >= 0x80."""
    return [fnv1a_64(word.lower()) % buckets for word in _WORD.findall(text.encode())]
