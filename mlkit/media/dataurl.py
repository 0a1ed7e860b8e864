"""``data:`` URLs (RFC 2397): bytes within a text."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from mlkit.errors import InputError, PayloadTooLarge

__all__ = ["bytes_of_data_url", "to_data_url"]

_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def bytes_of_data_url(url: object, max_bytes: int | None = None) -> bytes:
    """Decode a ``data:`` URL, base64 or percent-encoded.

    Base64 may use the URL-safe alphabet, contain white space and lack its padding.

    Args:
        url: the URL; white space before it is ignored.
        max_bytes: maximum of decoded bytes; None for no limit.

    Raises:
        InputError: it is no such URL, or malformed.
        PayloadTooLarge: the data exceed ``max_bytes``.
    """
    if not isinstance(url, str):
        raise InputError("not text", expected="a data: URL", got=type(url).__name__)
    head, comma, body = url.lstrip().partition(",")
    if not head.lower().startswith("data:"):
        raise InputError("not a data: URL", expected="data:image/png;base64,...", got=f"{url:.60}")
    if not comma:
        raise InputError(
            "the data: URL has no data", expected="data:image/png;base64,...", got=f"{url:.60}"
        )
    # Neither encoding takes more than three characters per byte.
    if max_bytes is not None and len(body) > 3 * max_bytes + 4:
        raise _too_large(max_bytes)
    data = unquote_to_bytes(body)
    if head.lower().replace(" ", "").endswith(";base64"):
        data = _from_base64(data)
    if max_bytes is not None and len(data) > max_bytes:
        raise _too_large(max_bytes, len(data))
    return data


def to_data_url(data: bytes, media_type: str) -> str:
    """Encode bytes as a base64 ``data:`` URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _from_base64(data: bytes) -> bytes:
    data = bytes(data.translate(_URL_SAFE, b" \t\r\n")).rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(f"the data: URL is not valid base64: {error}") from None


def _too_large(max_bytes: int, got: int | None = None) -> PayloadTooLarge:
    return PayloadTooLarge(
        "the data: URL holds too much",
        expected=f"at most {max_bytes:,} bytes",
        got=None if got is None else f"{got:,}",
    )
