"""Types composed at random are refused with a way out, or kept on every way."""

import asyncio
import random

import pytest

from tests.zoo.composed import compose, wrong

pytestmark = pytest.mark.filterwarnings("ignore")  # of pandas and pydantic, about odd types


@pytest.mark.parametrize("seed", range(20))
def test_a_composed_type_has_no_third_outcome(seed: int) -> None:
    loop = asyncio.new_event_loop()
    assert wrong(compose(random.Random(seed), depth=2), loop, examples=1) == []
    loop.close()
