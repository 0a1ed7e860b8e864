from __future__ import annotations

import threading

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import webcolors

from mlkit.media.image import Image
from mlkit.tagging.colour import colours
from mlkit.tagging.colournames import NAMES, name_of
from mlkit.tagging.types import Box

NAVY, RED, WHITE, BLACK, OAK = "#232a4a", "#c8202c", "#ffffff", "#1c1a1b", "#b98a5a"


def scene(ground: str, *things: tuple[str, tuple[int, int, int, int]], noise: int = 3) -> Image:
    """Return a picture of 200 x 200 of rectangles on a ground, with some noise."""
    picture = PIL.Image.new("RGB", (200, 200), ground)
    draw = PIL.ImageDraw.Draw(picture)
    for colour, place in things:
        draw.rectangle(place, fill=colour)
    grain = np.random.default_rng(3).integers(-noise, noise + 1, (200, 200, 3))
    return Image((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8), 200, 200)


def names(picture: Image, box: Box | None = None) -> list[str]:
    return [colour.name for colour in colours(picture, box)]


def test_names_are_css_names_and_few() -> None:
    assert set(NAMES) <= set(webcolors.names("css3"))
    assert len(NAMES) < 35


@pytest.mark.parametrize("name", ["red", "navy", "black", "white", "olive", "pink", "turquoise"])
def test_a_css_colour_has_its_own_name(name: str) -> None:
    assert name_of(np.array(webcolors.name_to_rgb(name), dtype=float)) == name


@pytest.mark.parametrize(
    ("hex_", "name"),
    [
        ("#2d2b2a", "black"),  # black cloth in daylight
        ("#dedbd7", "white"),  # white cloth with folds
        ("#9a9a9c", "lightgray"),
        ("#262c40", "navy"),
        ("#d9443a", "red"),
        ("#8a6257", "brown"),
        ("#39c5b4", "turquoise"),
        ("#e8b23a", "gold"),
        ("#eddcbe", "beige"),
        ("#55594a", "olive"),
    ],
)
def test_colours_of_photos_get_the_name_a_shopper_would_use(hex_: str, name: str) -> None:
    assert name_of(np.array(webcolors.hex_to_rgb(hex_), dtype=float)) == name


@pytest.mark.parametrize("ground", [WHITE, "#f2f4f5", BLACK, OAK, "#2e7d46"])
def test_the_ground_does_not_count(ground: str) -> None:
    (found,) = colours(scene(ground, (RED, (70, 60, 130, 150))), None)
    assert found.name == "red"
    assert found.share == 1


def test_a_wall_and_a_floor_do_not_count_either() -> None:
    room = scene("#dcd6c8", (OAK, (0, 120, 199, 199)), (NAVY, (60, 50, 140, 150)))
    assert names(room) == ["navy"]


def test_a_soft_shadow_belongs_to_the_ground() -> None:
    picture = scene(WHITE, (RED, (70, 40, 130, 150)), noise=0)
    shadow = 255 - 50 * np.exp(-((np.arange(200) - 160) ** 2 / 600))[:, None, None]
    pixels = np.where(picture.pixels == 255, shadow, picture.pixels).astype(np.uint8)
    assert names(Image(pixels, 200, 200)) == ["red"]


def test_what_is_white_inside_the_product_counts() -> None:
    labelled = scene(WHITE, (NAVY, (60, 40, 140, 160)), (WHITE, (75, 70, 125, 130)))
    navy, white = colours(labelled, None)
    assert (navy.name, white.name) == ("navy", "white")
    assert white.share == pytest.approx(50 * 60 / (80 * 120), abs=0.04)


def test_a_white_product_on_white_is_white() -> None:
    assert names(scene(WHITE, ("#e6e4e6", (50, 50, 150, 150)), noise=1)) == ["white"]


def test_a_product_that_fills_the_picture_is_not_taken_for_its_own_ground() -> None:
    assert names(scene(RED)) == ["red"]


def test_folds_do_not_make_a_second_colour() -> None:
    picture = scene(WHITE, (RED, (40, 40, 160, 160)))
    folds = 0.85 + 0.15 * np.sin(np.arange(200) / 7)[:, None, None]
    thing = picture.pixels[..., 1:2] < 128
    pixels = np.where(thing, picture.pixels * folds, picture.pixels).astype(np.uint8)
    assert names(Image(pixels, 200, 200)) == ["red"]


def test_only_what_is_in_the_box_counts() -> None:
    two = scene(OAK, (RED, (20, 60, 80, 140)), (NAVY, (120, 60, 180, 140)))
    assert names(two, Box(x0=10, y0=50, x1=90, y1=150)) == ["red"]
    assert names(two, Box(x0=110, y0=50, x1=190, y1=150)) == ["navy"]


def test_the_box_is_in_pixels_of_the_original() -> None:
    two = scene(OAK, (RED, (20, 60, 80, 140)), (NAVY, (120, 60, 180, 140)))
    original = Image(two.pixels, 2000, 2000)
    assert names(original, Box(x0=1100, y0=500, x1=1900, y1=1500)) == ["navy"]


@pytest.mark.parametrize(
    "box",
    [
        Box(x0=0, y0=0, x1=0, y1=0),
        Box(x0=199, y0=199, x1=200, y1=200),
        Box(x0=500, y0=500, x1=900, y1=900),
    ],
)
def test_a_box_with_nothing_in_it_still_gives_a_colour(box: Box) -> None:
    assert len(colours(scene(RED), box)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (900, 20)])
def test_pictures_of_any_shape_have_a_colour(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (200, 32, 44), dtype=np.uint8)
    assert names(Image(pixels, shape[1], shape[0])) == ["red"]


def test_details_are_left_out_and_the_rest_is_ranked() -> None:
    striped = scene(
        OAK, (NAVY, (40, 40, 160, 160)), (RED, (40, 40, 160, 70)), ("#ffee00", (40, 40, 50, 50))
    )
    navy, red = colours(striped, None)
    assert (navy.name, red.name) == ("navy", "red")
    assert navy.share > red.share > 0.2
    assert navy.share + red.share <= 1


def test_hex_is_the_real_colour_not_the_names() -> None:
    (found,) = colours(scene(WHITE, (RED, (60, 60, 140, 140)), noise=0), None)
    assert found.hex == RED


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_any_pixels_have_colours(seed: int) -> None:
    draw = np.random.default_rng(seed)
    few = draw.integers(0, 256, (draw.integers(1, 6), 3), dtype=np.uint8)
    pixels = few[draw.integers(0, len(few), (40, 30)) ** 2 % len(few)]
    found = colours(Image(pixels, 30, 40), None)
    assert 1 <= len(found) <= 4
    assert sum(colour.share for colour in found) <= 1.001


def test_threads_agree() -> None:
    picture = scene(OAK, (NAVY, (40, 40, 160, 160)), (RED, (40, 40, 160, 70)))
    expected = colours.fn(picture, None)
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(colours.fn(picture, None))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8
