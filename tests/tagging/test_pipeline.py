from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import PIL.Image
import pytest

from mlkit.errors import MlkitError, PayloadTooLarge, StepError, UnsupportedMedia
from mlkit.tagging import ProductTags, tag
from tools.check_catalogue import NEEDED, check

CATALOGUE = Path(__file__).parents[2] / "data" / "catalogue"


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ["torch", "openvino", "ray", "aiohttp", "PIL", "numpy", "webcolors"]
    code = f"import mlkit.tagging, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_it_has_no_problems_and_travels_by_reference() -> None:
    assert list(tag.problems) == []
    assert pickle.loads(cloudpickle.dumps(tag)).name == "tag"


def test_a_picture_gets_tags_that_a_person_agrees_with() -> None:
    found = tag(CATALOGUE / "yellow-plimsolls-3.jpg", title="Yellow Plimsolls")
    assert isinstance(found, ProductTags)
    assert found.product_class is not None
    assert found.product_class.name == "shoes"
    assert found.colours[0].name in {"gold", "yellow", "orange"}
    assert found.words == ["yellow", "plimsolls"]
    assert found.tags[:1] == ["shoes"]
    assert found.box is not None
    assert 0 <= found.box.x0 < found.box.x1 <= 640


def test_a_bottle_is_none_of_the_classes() -> None:
    assert tag(CATALOGUE / "seaman-lager-1.jpg").product_class is None


def test_path_bytes_pil_image_and_data_url_give_the_same_answer() -> None:
    import base64

    path = CATALOGUE / "blue-hoodie-1.jpg"
    url = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    expected = tag(path)
    assert tag(path.read_bytes()) == tag(str(path)) == tag(url) == expected
    with PIL.Image.open(path) as picture:
        drawn, array = tag(picture), tag(np.asarray(picture))
    assert drawn == array
    # Upload as PNG is scaled differently, so scores differ a little and words do not.
    assert drawn.tags == expected.tags


def test_the_json_is_the_documented_one() -> None:
    found = json.loads(tag(CATALOGUE / "blue-hoodie-1.jpg", title="Blue").model_dump_json())
    assert list(found) == ["product_class", "labels", "box", "colours", "words", "tags"]
    assert set(found["labels"][0]) == {"name", "score"}
    assert set(found["box"]) == {"x0", "y0", "x1", "y1"}
    assert set(found["colours"][0]) == {"name", "hex", "share"}


def test_the_box_is_in_pixels_of_the_original() -> None:
    with PIL.Image.open(CATALOGUE / "blue-hoodie-1.jpg") as small:
        large = small.resize((1600, 1600))
    out = io.BytesIO()
    large.save(out, "JPEG")
    box = tag(out.getvalue()).box
    assert box is not None
    assert 800 < box.x1 <= 1600


def test_a_person_agrees_with_the_catalogues_classes_and_colours() -> None:
    rows = list(check(CATALOGUE.parent / "catalogue.csv"))
    assert sum(row.class_is_right for row in rows) >= NEEDED * len(rows)
    assert sum(row.colour_is_right for row in rows) >= NEEDED * len(rows)


def png_bomb() -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"


@pytest.mark.parametrize(
    ("image", "status", "error"),
    [
        (b"not a picture", 415, UnsupportedMedia),
        (b"", 422, MlkitError),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", 422, MlkitError),
        (png_bomb(), 413, PayloadTooLarge),
        ("http://127.0.0.1:1/a.jpg", 424, MlkitError),
        ("http://[::ffff:10.0.0.1]/a.jpg", 424, MlkitError),
    ],
)
def test_bad_input_has_its_status(image: bytes | str, status: int, error: type[MlkitError]) -> None:
    with pytest.raises(StepError) as caught:
        tag(image)
    assert caught.value.status == status
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("mode", ["CMYK", "L", "I;16"])
def test_unusual_pictures_are_tagged(mode: str) -> None:
    out = io.BytesIO()
    if mode == "I;16":
        PIL.Image.fromarray(np.full((90, 90), 40_000, np.uint16)).save(out, "PNG")
    else:
        PIL.Image.new(mode, (90, 90)).save(out, "JPEG")
    assert tag(out.getvalue()).colours
