"""Loads the bytes of an image source."""

from __future__ import annotations

from mlkit.define import ImageSource, step
from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media.dataurl import bytes_of_data_url
from mlkit.media.image import MAX_BYTES

__all__ = ["download"]


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
        return bytes_of_data_url(text, MAX_BYTES)
    if start.startswith(("http://", "https://")):
        from mlkit.fetch import fetch

        return await fetch(text)
    raise InputError(
        "neither an image nor the URL of one",
        expected="an upload, or an http(s) or data: URL",
        got=f"{text:.60}" if text else f"a value of type {type(image).__name__}",
        fix="upload the file instead of sending its path",
    )


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise PayloadTooLarge(
            "the image file is too large",
            expected=f"at most {MAX_BYTES:,} bytes",
            got=f"{len(data):,}",
        )
    return data
