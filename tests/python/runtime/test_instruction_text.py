# SPDX-License-Identifier: Apache-2.0
"""Texts that look alike are one instruction, as for the text encoders in training: in Python and in C++."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import pytest

from helpers.engine_files import TASK, small_engine, write_engine
from lightwam.errors import InstructionError
from lightwam.runtime import Policy
from lightwam.runtime._engine import clean_instruction as clean_in_cpp
from lightwam.words import clean_instruction, split_words

TABLE_VERSION = "14.0.0"  # of Unicode, in csrc/runtime/nfkc_table.inl

LIKE_THE_TASK = {
    "as it is": "pick up the soup",
    "spaces around": "  pick up the soup ",
    "doubled spaces": "pick  up   the soup",
    "a line break at the end": "pick up the soup\r\n",
    "tabs": "pick\tup\tthe\tsoup",
    "vertical space": "pick up\x0b the soup",
    "no-break space": "pick\u00a0up the soup",
    "narrow no-break space": "pick\u202fup the soup",
    "ideographic space": "pick\u3000up the soup",
    "em space": "pick\u2003up the soup",
    "zero-width space": "pick\u200bup the soup",
    "zero-width space by a space": "pick \u200bup the soup",
    "zero-width joiner": "pick up the so\u200dup",
    "word joiner": "pick up the so\u2060up",
    "soft hyphen": "pick up the so\u00adup",
    "byte order mark": "\ufeffpick up the soup",
    "byte order mark inside": "pick\ufeff up the soup",
    "right-to-left marks": "\u202bpick up the soup\u202c",
    "left-to-right mark": "pick\u200e up the soup",
    "isolates": "\u2066pick up the soup\u2069",
    "variation selector": "pick up the soup\ufe0f",
    "bell": "pick\x07 up the soup",
    "zero byte": "pick\0 up the soup",
    "delete": "pick up the soup\x7f",
    "C1 control": "pick up the soup\x9f",
    "next line": "pick up\x85the soup",
    "line separator": "pick up\u2028the soup",
    "full width": "\uff50\uff49\uff43\uff4b up the soup",
    "mathematical letters": "pick up the \U0001d42c\U0001d428\U0001d42e\U0001d429",
    "tags": "pick up the soup\U000e0041",
}
OTHERS = {
    "accents": ("cafe\u0301", "caf\u00e9"),
    "two accents": ("o\u0302\u0323", "\u1ed9"),
    "Hangul": ("\u1112\u1161\u11ab", "\ud55c"),
    "ligature": ("\ufb01ll", "fill"),
    "apostrophes": ("don\u2019t", "don't"),
    "quotes": ("\u201cred\u201d", '"red"'),
    "ellipsis": ("stop\u2026", "stop..."),
    "apostrophe in a letter": ("\u0149", "'n"),
    "Angstrom": ("\u212b", "\u00c5"),
    "Devanagari stays apart": ("\u0958", "\u0915\u093c"),
}


@pytest.mark.parametrize("case", LIKE_THE_TASK)
def test_texts_that_look_alike_are_one(case: str) -> None:
    text = LIKE_THE_TASK[case]
    assert clean_instruction(text) == clean_in_cpp(text) == TASK
    assert split_words(text) == ["pick", "up", "the", "soup"]


@pytest.mark.parametrize("case", OTHERS)
def test_forms_of_a_character_are_one(case: str) -> None:
    one, other = OTHERS[case]
    assert clean_instruction(one) == clean_in_cpp(one) == clean_instruction(other) == clean_in_cpp(other) == other


def test_both_implementations_agree_on_every_character() -> None:
    """Alone, and between letters: on all that Python's version of Unicode shares with the table."""
    old = unicodedata.ucd_3_2_0
    same = unicodedata.unidata_version == TABLE_VERSION
    codes = [
        c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000 and (same or old.category(chr(c)) != "Cn")
    ]
    for start in range(0, len(codes), 4096):
        text = "a".join(map(chr, codes[start : start + 4096]))
        assert clean_in_cpp(text) == clean_instruction(text)


def test_both_implementations_agree_on_sequences() -> None:
    """Marks in any order behind letters, Hangul of all kinds, white space and what shows nothing."""
    rng = random.Random(5)
    marks = [chr(c) for c in range(0x300, 0x370)] + list("\u0591\u05b0\u0651\u064b\u093c\u3099\u20d0\u1ab0")
    letters = list("aeoAzq \u1ea1\u00e5\u0915\u304b\u1100\u1161\u11a8\uac00\uac01\u0041\ufb01\u212b\u00a8\u200b\ufeff")
    for _ in range(5000):
        text = "".join(rng.choice(letters if rng.random() < 0.4 else marks) for _ in range(rng.randrange(1, 9)))
        cleaned = clean_instruction(text)
        assert clean_in_cpp(text) == cleaned == clean_instruction(cleaned), ascii(text)


def test_the_rule_is_that_of_umt5s_tokenizer() -> None:
    """White space and form KC as in SentencePiece's nmt_nfkc, behind the repairs of the published code (ftfy)."""
    sentencepiece, ftfy = pytest.importorskip("sentencepiece"), pytest.importorskip("ftfy")
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    # The tokenizer would keep these, and ftfy takes C1 controls for characters of Windows.
    only_ours = {"zero-width joiner", "word joiner", "soft hyphen", "right-to-left marks", "isolates",
                       "variation selector", "C1 control", "next line", "tags"}  # fmt: skip
    for case, text in LIKE_THE_TASK.items():
        if case not in only_ours:
            tokenized = normalizer.normalize(ftfy.fix_text(text)).replace("\u2581", " ").strip()
            assert tokenized == clean_instruction(text), case
    for case, (text, _) in OTHERS.items():
        if case == "apostrophe in a letter":  # that of the tokenizer's form stays curly
            continue
        assert normalizer.normalize(ftfy.fix_text(text)).lstrip("\u2581") == clean_instruction(text), case


def test_every_variant_is_the_known_instruction(tmp_path: Path) -> None:
    for encoder in (True, False):
        policy = Policy(write_engine(tmp_path / "e.lwam", small_engine(text_encoder=encoder)), threads=1)
        for text in LIKE_THE_TASK.values():
            policy.set_instruction(text)
            assert policy.instruction == text
        assert policy._engine.instruction_computations == 1


def test_a_known_text_may_have_odd_space_itself(tmp_path: Path) -> None:
    engine = small_engine(text_encoder=False)
    engine.document["policy"]["instructions"][0]["text"] = "pick up\u00a0the  soup\n"
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=1)
    policy.set_instruction(TASK)
    assert policy.instruction == TASK


BAD = {
    "empty": ("", "holds no word"),
    "only invisible": ("\u200b\ufeff \u00a0", "holds no word"),
    "only control characters": ("\x01\x02", "holds no word"),
    "half a pair": ("pick \ud800", "is not valid text"),
    "too many words": ("go " * 7, "a prompt of 7 words; this engine takes at most 6"),
    "100 kB": ("pick up " * 12_500, "a prompt of 25000 words"),
    "bytes": (b"pick up", "the instruction is a bytes; expected a string"),
    "None": (None, "the instruction is a NoneType"),
    "a list": (["pick"], "the instruction is a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_texts_are_one_line_and_change_nothing(policy: Policy, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(InstructionError, match=message) as caught:
        policy.set_instruction(text)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert policy.instruction == TASK
