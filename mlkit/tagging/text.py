"""The words of a product's title that mean something."""

from __future__ import annotations

import re
import unicodedata

from mlkit.define import step

__all__ = ["MAX_WORDS", "words"]

MAX_WORDS = 40
"""Words that are kept of a title; what comes after is seldom a title any more."""

# Articles, conjunctions and prepositions of the languages that shops here write in, and what shops
# say of everything.
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

# One spelling for what is written in many; a hyphen is part of a word, a space is not.
_SPELLINGS = (
    (re.compile(r"\b(?:t|tee)[ -]?shirt(s?)\b"), r"t-shirt\1"),
    (re.compile(r"\blong[ -]?sleeved?\b"), "longsleeve"),
)


@step
def words(title: str) -> list[str]:
    """Return the meaningful words of ``title`` in lower case, each once, in the title's order.

    Compatibility forms are unified (Unicode's NFKC), punctuation, symbols and possessive endings
    are dropped, hyphens and apostrophes inside words are kept. Left out are stop words, single
    letters and numbers of one or two digits.
    """
    # Symbols first: NFKC would make letters of "™".
    text = "".join(char if _belongs_to_word(char) else " " for char in title.replace("’", "'"))
    text = unicodedata.normalize("NFKC", text).lower()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    bare = (word.strip("-'").removesuffix("'s").strip("-'") for word in text.split())
    return list(dict.fromkeys(word for word in bare if _means_something(word)))[:MAX_WORDS]


def _belongs_to_word(char: str) -> bool:
    # Letters, digits, and the marks without which many scripts fall apart.
    return char in "-'" or unicodedata.category(char)[0] in "LMN"


def _means_something(word: str) -> bool:
    if not word or word in _STOP:
        return False
    if len(word) == 1:
        # An ideograph is a word, a letter is not.
        return unicodedata.category(word) == "Lo"
    return not (word.isdecimal() and len(word) < 3)
