from __future__ import annotations

import pytest

from mlkit.tagging.text import MAX_WORDS, words


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Navy Cotton T-Shirt", ["navy", "cotton", "t-shirt"]),
        ("The Best of Men's Tee Shirts, NEW!", ["men", "t-shirts"]),
        ("T shirt / tshirt / TEE-SHIRT", ["t-shirt"]),
        ("Long-sleeved top, long sleeve", ["longsleeve", "top"]),
        ("Levi’s® 501™ Jeans – W32 L34, 2 pcs", ["levi", "501", "jeans", "w32", "l34", "pcs"]),
        ("Robe d'été en lin, 100% lin", ["robe", "d'été", "lin", "100"]),
        ("Weiße Bluse für Damen", ["weiße", "bluse", "damen"]),
        ("ＦＵＬＬＷＩＤＴＨ ﬁne", ["fullwidth", "fine"]),
        ("हिन्दी टी-शर्ट", ["हिन्दी", "टी-शर्ट"]),
        ("赤 Tシャツ", ["赤", "tシャツ"]),
        ("👟 sneakers -- (a) 'x' red/blue", ["sneakers", "red", "blue"]),
        ("red RED Red", ["red"]),
        ("", []),
        ("  -- ' 's ", []),
    ],
)
def test_meaningful_words_are_kept_in_order(title: str, expected: list[str]) -> None:
    assert words(title) == expected


def test_a_composed_and_a_decomposed_letter_are_one() -> None:
    assert words("e\u0301te\u0301 été") == ["été"]


def test_a_text_in_the_titles_place_is_cut() -> None:
    assert len(words(" ".join(f"word{i}" for i in range(500)))) == MAX_WORDS
