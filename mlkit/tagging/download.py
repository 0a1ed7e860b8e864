"""From what a caller gave as a picture to its bytes."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from mlkit.define import ImageSource, step
from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media.image import MAX_BYTES

__all__ = ["data_url_bytes", "download"]


@step
async def download(image: ImageSource) -> bytes:
    """Return the bytes of a picture: an upload as it is, an http(s) URL fetched, a data: URL read.

    Paths are never opened here, since in a served pipeline they would be the server's.

    Raises:
        InputError: it is text, but no such URL.
        FetchError: the URL could not be fetched, or leads to an address that is not public.
        PayloadTooLarge: more than `mlkit.media.image.MAX_BYTES`.
    """
    if isinstance(image, bytes):
        return _within_limit(image)
    text = image if isinstance(image, str) else ""
    start = text.lstrip()[:8].lower()
    if start.startswith("data:"):
        return data_url_bytes(text.lstrip())
    if start.startswith(("http://", "https://")):
        from mlkit.fetch import fetch

        return await fetch(text)
    raise InputError(
        "this is not a picture, nor a URL of one",
        expected="an upload, or an http(s) or data: URL",
        got=f"{text:.60}" if text else f"a value of type {type(image).__name__}",
        fix="a file is sent as an upload: its path means nothing to a server",
    )


def data_url_bytes(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the data that a ``data:`` URL holds (RFC 2397), base64 or percent-encoded.

    Raises:
        InputError: it is not well-formed.
        PayloadTooLarge: it holds more than ``max_bytes``.
    """
    head, comma, body = url.partition(",")
    if not comma:
        raise InputError(
            "this data: URL has no data", expected="data:image/png;base64,...", got=f"{url:.60}"
        )
    # Three characters a byte is the longest form, in both encodings.
    if len(body) > 3 * max_bytes + 4:
        raise _too_large(max_bytes)
    data = unquote_to_bytes(body)
    if head.lower().replace(" ", "").endswith(";base64"):
        data = _from_base64(data)
    return _within_limit(data, max_bytes)


def _from_base64(data: bytes) -> bytes:
    data = bytes(data.translate(_URL_SAFE, b" \t\r\n")).rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(f"this data: URL is not base64: {error}") from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _within_limit(data: bytes, max_bytes: int = MAX_BYTES) -> bytes:
    if len(data) > max_bytes:
        raise _too_large(max_bytes, len(data))
    return data


def _too_large(max_bytes: int, got: int | None = None) -> PayloadTooLarge:
    return PayloadTooLarge(
        "the picture file is too large",
        expected=f"at most {max_bytes:,} bytes",
        got=None if got is None else f"{got:,}",
    )
