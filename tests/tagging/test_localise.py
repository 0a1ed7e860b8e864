import numpy as np
import pytest

from mlkit.media.image import Image
from mlkit.models import imagenet_names
from mlkit.tagging.classify import Seen
from mlkit.tagging.localise import bounds, localise
from mlkit.tagging.network import CLASSES


def heat(*cells):
    """A map that is hot in these cells (row, column)."""
    found = np.zeros((7, 7), np.float32)
    for cell in cells:
        found[cell] = 1
    return found


def seen(label, *, class_map, label_map):
    labels = np.zeros(1000, np.float32)
    labels[imagenet_names().index(label)] = 1
    return Seen(labels, np.eye(len(CLASSES), dtype=np.float32)[3], class_map, label_map)


def picture(width, height):
    return Image(np.zeros((70, 70, 3), np.uint8), width, height)


def covers(box, row, column, width, height):
    """Whether a box covers the middle of a cell of a 7 x 7 map."""
    x, y = (column + 0.5) / 7 * width, (row + 0.5) / 7 * height
    return box.x0 <= x < box.x1 and box.y0 <= y < box.y1


def test_the_box_is_around_what_is_hot_in_pixels_of_the_original():
    found = localise(
        picture(700, 1400), seen("jeans", class_map=heat((2, 1), (3, 1)), label_map=heat((6, 6)))
    )
    assert covers(found, 2, 1, 700, 1400)
    assert covers(found, 3, 1, 700, 1400)
    assert not covers(found, 2, 3, 700, 1400)
    assert not covers(found, 5, 1, 700, 1400)


def test_where_there_is_no_clothing_the_labels_map_counts():
    found = localise(
        picture(700, 700), seen("beer bottle", class_map=heat((0, 0)), label_map=heat((5, 5)))
    )
    assert covers(found, 5, 5, 700, 700)
    assert not covers(found, 0, 0, 700, 700)


def test_only_the_part_with_the_maximum_counts():
    two = heat((1, 1), (5, 5))
    two[5, 5] = 0.8
    x0, y0, x1, y1 = bounds(two)
    assert (x0 < 1.5 / 7 < x1, y0 < 1.5 / 7 < y1) == (True, True)
    assert max(x1, y1) < 4 / 7


def test_a_flat_map_has_no_box():
    flat = np.full((7, 7), 0.5, np.float32)
    assert bounds(flat) is None
    assert localise(picture(9, 9), seen("jeans", class_map=flat, label_map=flat)) is None


@pytest.mark.parametrize("cell", [(0, 0), (6, 6), (0, 6)])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 900), (640, 480)])
def test_a_box_lies_inside_the_picture_and_is_not_empty(cell, width, height):
    found = localise(picture(width, height), seen("jeans", class_map=heat(cell), label_map=heat()))
    assert 0 <= found.x0 < found.x1 <= width
    assert 0 <= found.y0 < found.y1 <= height


def test_scale_and_offset_of_a_map_do_not_matter():
    values = np.random.default_rng(0).random((7, 7), dtype=np.float32)
    assert bounds(values) == bounds(values * 40 - 7)
