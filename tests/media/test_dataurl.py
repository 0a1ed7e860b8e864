"""What a ``data:`` URL holds, and which ones are refused."""

from __future__ import annotations

import base64

import pytest

from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media.dataurl import bytes_of_data_url, to_data_url

DATA = bytes(range(256))


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
    assert bytes_of_data_url(url) == DATA


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64", "data:;base64,!!!!", "data:;base64,abcde", "", "https://a.example,"],
)
def test_a_malformed_data_url_is_at_fault(url: str) -> None:
    with pytest.raises(InputError, match="data: URL"):
        bytes_of_data_url(url)


@pytest.mark.parametrize("length", [11, 12, 1000])
@pytest.mark.parametrize("form", ["data:;base64,{}", "data:,{}"])
def test_a_data_url_over_the_limit_is_refused(form: str, length: int) -> None:
    data = b"x" * length
    body = base64.b64encode(data).decode() if "base64" in form else data.decode()
    with pytest.raises(PayloadTooLarge):
        bytes_of_data_url(form.format(body), max_bytes=10)


def test_without_a_limit_it_may_be_of_any_length() -> None:
    assert len(bytes_of_data_url("data:," + "x" * 100_000)) == 100_000


def test_bytes_survive_the_way_there_and_back() -> None:
    assert bytes_of_data_url(to_data_url(DATA, "image/png")) == DATA
