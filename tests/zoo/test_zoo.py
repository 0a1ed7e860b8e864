"""A type is a problem at definition, or keeps type and value on every way."""

import asyncio
import collections
from collections.abc import Iterator

import pytest

from tests.zoo.catalog import ENTRIES
from tests.zoo.ways import EQUAL, REFUSED, WAYS, Entry, same, visit

pytestmark = pytest.mark.filterwarnings("ignore")  # of pandas and pydantic, about odd types


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_a_type_is_refused_beforehand_or_equal_on_every_way(
    entry: Entry, loop: asyncio.AbstractEventLoop
) -> None:
    outcome = visit(entry, loop, examples=1)
    assert outcome.wrong == []
    assert outcome.words.keys() == set(WAYS)
    assert outcome.words["app"] == (REFUSED if entry.refused else EQUAL)


def test_every_type_has_one_name() -> None:
    names = collections.Counter(entry.name for entry in ENTRIES)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) > 150


@pytest.mark.parametrize(
    "entry",
    [
        Entry("refused", int, (1,), refused=True),
        Entry("accepted", asyncio.Queue),
        Entry("another value", float, (1.0,), equal=lambda left, right: False),
        Entry("another answer", int, (1,), answer=2),
    ],
    ids=lambda entry: entry.name,
)
def test_a_third_outcome_is_a_diagnosis(entry: Entry, loop: asyncio.AbstractEventLoop) -> None:
    assert visit(entry, loop, examples=1).wrong != []


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({"a": 1}, {"a": 1.0}), ({1}, {True})],
)
def test_values_of_other_types_are_not_the_same(left: object, right: object) -> None:
    assert not same(left, right)
