"""Texts as steps see them."""

import pydantic
import pytest

from mlkit import pipeline, step
from mlkit.errors import DefinitionError, InputError, PayloadTooLarge
from mlkit.media.text import MAX_CHARS, Text, TextOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("\u1112\u1161\u11ab", "한"),
        ("a\r\nb\rc\n\td", "a\nb\nc\n\td"),
        ("👩\u200d🔬 שלום", "👩\u200d🔬 שלום"),
        ("ﬁ ™", "ﬁ ™"),  # compatible, and not the same
        ("", ""),
    ],
)
def test_equal_texts_become_equal_strings(text: str, expected: str) -> None:
    assert TextOptions().normalized(text) == expected
    assert TextOptions().normalized(expected) == expected


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x85", "\ud800"])
def test_a_control_character_is_refused_with_its_place(character: str) -> None:
    with pytest.raises(InputError, match=f"U\\+{ord(character):04X} at position 2") as refused:
        TextOptions().normalized(f"ab{character}c")
    assert refused.value.status == 422


@pytest.mark.parametrize("text", ["abcd", "a\u0301bc"])
def test_the_limit_is_on_what_is_sent(text: str) -> None:
    options = TextOptions(max_chars=3)
    assert options.normalized("abc") == "abc"
    with pytest.raises(PayloadTooLarge, match="at most 3 characters, got 4"):
        options.normalized(text)


def test_the_limit_is_on_what_is_normalized() -> None:
    grows = "\ufb2c"  # a letter that is composed of three
    with pytest.raises(PayloadTooLarge, match="at most 2 characters, got 3"):
        TextOptions(max_chars=2).normalized(grows)


def test_ten_megabytes_are_refused_before_they_are_searched() -> None:
    with pytest.raises(PayloadTooLarge, match="got 10,000,000"):
        TextOptions().normalized("\0" * 10_000_000)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(DefinitionError):
        TextOptions(max_chars=0)


@step
def same(text: str) -> str:
    return text


@pipeline
def normalized(text: Text) -> Text:
    return same(text)


@pipeline
def plain(text: str) -> str:
    return same(text)


def test_a_plain_str_stays_as_it_is() -> None:
    assert normalized("e\u0301") == "é"
    assert plain("e\u0301\0") == "e\u0301\0"


def test_its_schema_has_the_limit_of_arguments_only() -> None:
    adapter = pydantic.TypeAdapter(Text)
    assert adapter.json_schema()["maxLength"] == MAX_CHARS
    assert "maxLength" not in adapter.json_schema(mode="serialization")
