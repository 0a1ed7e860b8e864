from __future__ import annotations

import base64

import pytest

from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media.image import MAX_BYTES
from mlkit.tagging.download import download

DATA = bytes(range(256))


def test_an_upload_is_returned_as_it_is() -> None:
    assert download(DATA) is DATA


def test_an_upload_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="too large"):
        download(b"\0" * (MAX_BYTES + 1))


def test_a_data_url_is_decoded_within_the_limit() -> None:
    assert download(" data:;base64," + base64.b64encode(DATA).decode()) == DATA
    with pytest.raises(PayloadTooLarge):
        download("data:," + "x" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "shoe.jpg",
        "file:///etc/passwd",
        "ftp://example.org/a.jpg",
        "",
        "javascript:1",
    ],
)
def test_other_text_is_never_opened(text: str) -> None:
    with pytest.raises(InputError, match="neither an image nor the URL"):
        download(text)


def test_another_type_is_named() -> None:
    with pytest.raises(InputError, match="int"):
        download(17)  # type: ignore[arg-type]


def test_a_url_is_fetched_under_guard() -> None:
    with pytest.raises(InputError, match="is not public") as caught:
        download("http://127.0.0.1:9/a.jpg")
    assert caught.value.status == 424
