"""Bombs and damaged images end in an error of mlkit's, or an image."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.hostile.pictures import BOMBS, mutations, survives
from mlkit.errors import PayloadTooLarge
from mlkit.media.image import decode


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_images_are_decoded_or_refused() -> None:
    outcomes = Counter(map(survives, mutations(1_000, seed=1)))
    assert outcomes.keys() == {"decoded", "refused"}
    assert outcomes["decoded"] > 50


@pytest.mark.parametrize(
    "name",
    [name for name in BOMBS if "000,000" in name and name != "JPEG, 4,000,000 empty comments"],
)
def test_millions_of_empty_parts_are_not_read_one_by_one(name: str) -> None:
    with pytest.raises(PayloadTooLarge, match="too many parts"):
        decode(BOMBS[name]())


@pytest.mark.parametrize("name", [name for name in BOMBS if ", truncated" in name])
def test_a_truncated_image_is_refused(name: str) -> None:
    assert survives(BOMBS[name]()) == "refused"


def test_there_are_bombs_of_every_kind() -> None:
    assert len(BOMBS) >= 40
