"""Extracts the meaningful words of a title."""

from __future__ import annotations

import re
import unicodedata

from mlkit.define import step

__all__ = ["MAX_WORDS", "words"]

MAX_WORDS = 40
"""Maximum number of words; longer texts are rarely titles."""

# Articles, conjunctions and prepositions of several European languages, and words that shops use
# for everything.
_STOP_WORDS = """
    a an and are as at be by for from in into is it its of on or our over the this to up with
    without your
    best buy deal delivery new offer only sale shipping size
    das dem den der des die ein eine einem einen einer eines für im in mit neu oder ohne und von zu
    au aux avec dans de des du en et la le les ou par pour sans sur un une
    con da del dei della di e el en gli i il las lo los o para per por sin su un una y
    het een met van voor en
"""
_STOP = frozenset(_STOP_WORDS.split())

# Unified spellings; a hyphen is part of a word, a space is not.
_SPELLINGS = (
    (re.compile(r"\b(?:t|tee)[ -]?shirt(s?)\b"), r"t-shirt\1"),
    (re.compile(r"\blong[ -]?sleeved?\b"), "longsleeve"),
)


@step
def words(title: str) -> list[str]:
    """Return the meaningful words of a title in lower case, in order and without duplicates.

    Text is normalized (Unicode NFKC); punctuation, symbols and possessive endings are removed,
    hyphens and apostrophes inside words are kept. Stop words, single letters and numbers of one or
    two digits are dropped.
    """
    # Symbols first: NFKC turns "™" into letters.
    text = "".join(char if _belongs_to_word(char) else " " for char in title.replace("’", "'"))
    text = unicodedata.normalize("NFKC", text).lower()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    bare = (word.strip("-'").removesuffix("'s").strip("-'") for word in text.split())
    return list(dict.fromkeys(word for word in bare if _is_meaningful(word)))[:MAX_WORDS]


def _belongs_to_word(char: str) -> bool:
    # Letters, numbers, and the combining marks that many scripts need.
    return char in "-'" or unicodedata.category(char)[0] in "LMN"


def _is_meaningful(word: str) -> bool:
    if not word or word in _STOP:
        return False
    if len(word) == 1:
        # An ideograph is a word; a single letter is not.
        return unicodedata.category(word) == "Lo"
    return not (word.isdecimal() and len(word) < 3)
