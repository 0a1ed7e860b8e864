from __future__ import annotations

import numpy as np
import pytest

from mlkit.tagging.cielab import codes, difference, lab, lab_of_codes


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 128, 0), (46.23, -51.70, 49.90)),
        ((0, 0, 128), (12.97, 47.50, -64.70)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_srgb_becomes_cielab(rgb: tuple[int, ...], expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(lab(rgb), expected, atol=0.03)


# From the supplementary test data of Sharma, Wu and Dalal (2005); hue wraps in several of them.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("one", "other", "expected"), SHARMA)
def test_differences_are_those_of_the_published_pairs(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    assert difference(one, other) == pytest.approx(expected, abs=1e-4)
    assert difference(other, one) == pytest.approx(expected, abs=1e-4)


def test_differences_broadcast() -> None:
    some, others = lab([[255, 0, 0], [0, 0, 0]]), lab([[255, 0, 0], [0, 0, 255], [9, 9, 9]])
    table = difference(some[:, None], others)
    assert table.shape == (2, 3)
    assert table.argmin(axis=1).tolist() == [0, 2]


def test_a_code_stands_for_its_colour() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (500, 3), dtype=np.uint8)
    wrong = np.abs(lab_of_codes()[codes(rgb)] - lab(rgb)).max(axis=1)
    assert np.median(wrong) < 1.2
    assert lab_of_codes()[codes(np.array([[255, 255, 255]], np.uint8))][0].tolist() == (
        pytest.approx([100, 0, 0], abs=0.01)
    )
