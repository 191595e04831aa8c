# SPDX-License-Identifier: Apache-2.0
"""Paraphrases of an English instruction, by rules: for tasks as "pick up the soup and place it in the basket"."""

from __future__ import annotations

import re

import numpy as np

from lightwam.sim.perturb.wrapper import Perturbed

_AROUND = ("please {}", "{} please", "now {}", "could you {}", "I want you to {}", "robot, {}")
_LIKE = {  # phrases for which others stand, the longer first
    "pick up": ("take", "grab", "lift", "get"),
    "pick": ("take", "grab", "get"),
    "place": ("put", "set", "lay"),
    "put": ("place", "set", "lay"),
    "turn on": ("switch on", "start"),
    "push": ("move", "slide"),
    "open": ("pull open",),
    "close": ("shut",),
    "on top of": ("onto", "upon"),
    "in": ("into", "inside"),
    "on": ("onto", "upon"),
    "reach": ("go to", "move to"),
}
_WORD = re.compile(r"\b(" + "|".join(_LIKE) + r")\b")


def polite(text: str, rng: np.random.Generator) -> str:
    """The text with a phrase before or after it."""
    return str(rng.choice(_AROUND)).format(text)


def reworded(text: str, rng: np.random.Generator) -> str:
    """Verbs and prepositions replaced by others that mean the same; the names of things stay."""
    return _WORD.sub(lambda found: str(rng.choice(_LIKE[found[0]])), text)


def turned_round(text: str) -> str:
    """The goal first: "in the basket: pick up the soup and place it there". Unchanged where there is no such part."""
    found = re.fullmatch(r"(.+) (place|put) it ((?:in|on|inside|on top of|to) .+)", text)
    return f"{found[3]}: {found[1]} {found[2]} it there" if found else text


class Instruction(Perturbed):
    """Level 1: polite; 2: other words; 3: the goal first, other words, polite."""

    axis = "instruction"
    strengths = (1, 2, 3)

    def draw(self, rng: np.random.Generator) -> None:
        text = self.inner.instruction()
        if self.strength >= 3:
            text = turned_round(text)
        if self.strength >= 2:
            text = reworded(text, rng)
        self.text = polite(text, rng) if self.strength in (1, 3) else text

    def instruction(self) -> str:
        return self.text
