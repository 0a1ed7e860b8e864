"""Loads the bytes of an image source."""

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
    """Return the bytes of an upload, an http(s) URL or a data: URL.

    Paths are never opened: in a served pipeline they would be paths on the server.

    Raises:
        InputError: the source is neither an upload nor such a URL.
        FetchError: the URL cannot be fetched, or leads to an address that is not public.
        PayloadTooLarge: the image exceeds `mlkit.media.image.MAX_BYTES`.
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
        "neither an image nor the URL of one",
        expected="an upload, or an http(s) or data: URL",
        got=f"{text:.60}" if text else f"a value of type {type(image).__name__}",
        fix="upload the file instead of sending its path",
    )


def data_url_bytes(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Decode a ``data:`` URL (RFC 2397), base64 or percent-encoded.

    Raises:
        InputError: the URL is malformed.
        PayloadTooLarge: the data exceed ``max_bytes``.
    """
    head, comma, body = url.partition(",")
    if not comma:
        raise InputError(
            "the data: URL has no data", expected="data:image/png;base64,...", got=f"{url:.60}"
        )
    # Neither encoding takes more than three characters per byte.
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
        raise InputError(f"the data: URL is not valid base64: {error}") from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _within_limit(data: bytes, max_bytes: int = MAX_BYTES) -> bytes:
    if len(data) > max_bytes:
        raise _too_large(max_bytes, len(data))
    return data


def _too_large(max_bytes: int, got: int | None = None) -> PayloadTooLarge:
    return PayloadTooLarge(
        "the image file is too large",
        expected=f"at most {max_bytes:,} bytes",
        got=None if got is None else f"{got:,}",
    )
