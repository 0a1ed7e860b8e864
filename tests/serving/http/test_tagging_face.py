"""The shipped pipeline behind HTTP, given everything that people and strangers send."""

import io

import numpy as np
import PIL.Image
import pytest

from mlkit.tagging import tag

JPEG = {"Content-Type": "image/jpeg"}


def file_of(picture, kind="JPEG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photo():
    return file_of(PIL.Image.new("RGB", (300, 300), "navy"))


def bomb():
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"not a picture", "headers": JPEG}, 415),
        ({"content": b"\xff\xd8\xff\xe0\0\x10JFIF", "headers": JPEG}, 422),
        ({"content": bomb(), "headers": JPEG}, 413),
        ({"content": b"\0" * 50_000_000, "headers": JPEG}, 413),
        ({"content": b"", "headers": JPEG}, 422),
        ({"json": {"image": "https://nosuchhost.invalid/a.jpg"}}, 424),
        ({"json": {"image": "http://10.0.0.1/a.jpg"}}, 424),
        ({"json": {"image": "http://[::1]/a.jpg"}}, 424),
        ({"json": {"image": "/etc/passwd"}}, 422),
        ({"json": {"title": "no picture"}}, 422),
        ({"json": {"image": 3}}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
    ],
)
def test_bad_input_has_its_status_and_the_next_request_is_answered(
    face, photo, request_, status
) -> None:
    client = face(tag)
    answer = client.post("/tag", **request_)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert client.post("/tag", content=photo, headers=JPEG).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        file_of(PIL.Image.new("CMYK", (90, 90))),
        file_of(PIL.Image.fromarray(np.full((90, 90), 40_000, np.uint16)), "PNG"),
        file_of(
            PIL.Image.new("RGB", (90, 90), "red"),
            "WEBP",
            save_all=True,
            append_images=[PIL.Image.new("RGB", (90, 90), "blue")],
        ),
    ],
    ids=["CMYK", "16 bit", "animated"],
)
def test_an_unusual_picture_is_answered(face, data) -> None:
    answer = face(tag).post("/tag", content=data, headers={"Content-Type": "image/webp"})
    assert answer.status_code == 200
    assert answer.json()["colours"]
