from __future__ import annotations

import base64

import pytest

from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media.image import MAX_BYTES
from mlkit.tagging.download import data_url_bytes, download

DATA = bytes(range(256))


def test_an_upload_is_returned_as_it_is() -> None:
    assert download(DATA) is DATA


def test_an_upload_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="too large"):
        download(b"\0" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + base64.b64encode(DATA).decode(),
        "DATA:;Base64," + base64.b64encode(DATA).decode().rstrip("="),
        "data:image/png;base64," + base64.urlsafe_b64encode(DATA).decode(),
        "data:image/png;base64," + base64.encodebytes(DATA).decode(),
        "data:image/png;base64," + base64.b64encode(DATA).decode().replace("+", "%2B"),
        "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in DATA),
        " data:image/png;name=a;base64," + base64.b64encode(DATA).decode(),
    ],
)
def test_a_data_url_is_decoded(url: str) -> None:
    assert download(url) == DATA


@pytest.mark.parametrize(
    "url", ["data:image/png;base64", "data:;base64,!!!!", "data:;base64,abcde"]
)
def test_a_malformed_data_url_is_at_fault(url: str) -> None:
    with pytest.raises(InputError, match="data: URL"):
        download(url)


@pytest.mark.parametrize("length", [11, 12, 1000])
@pytest.mark.parametrize("form", ["data:;base64,{}", "data:,{}"])
def test_a_data_url_over_the_limit_is_refused(form: str, length: int) -> None:
    data = b"x" * length
    body = base64.b64encode(data).decode() if "base64" in form else data.decode()
    with pytest.raises(PayloadTooLarge):
        data_url_bytes(form.format(body), max_bytes=10)


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
