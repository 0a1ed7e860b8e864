"""Decompression of request bodies."""

from __future__ import annotations

import zlib

from mlkit.errors import UnsupportedMedia

__all__ = ["Decompressor", "decompressor"]

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Supported content encodings, and their ``wbits`` for `zlib`."""

_BLOCK_BYTES = 16 * 1024
"""What is decompressed at a time: `zlib` copies what is left of it at the end of each member."""

_MAX_MEMBERS = 10_000
"""Maximum number of members of a gzip body. Each costs time, even if it is empty."""


class Decompressor:
    """Decompresses a body as it arrives.

    A gzip body consists of one or more members, as ``cat a.gz b.gz`` does (RFC 1952, section 2.2).
    """

    def __init__(self, encoding: str) -> None:
        self._wbits = _WINDOWS[encoding]
        self._has_members = encoding == "gzip"
        self._member = zlib.decompressobj(self._wbits)
        self._members = 1

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Decompress the next part of the body, to at most so many bytes; the rest is dropped.

        Raises:
            zlib.error: it is damaged, or has too many members.
        """
        output, rest = bytearray(), memoryview(data)
        while rest and len(output) < max_length:
            if self._member.eof:
                if not self._has_members:
                    raise zlib.error("it goes on after its end")
                if self._members == _MAX_MEMBERS:
                    raise zlib.error(f"it has more than {_MAX_MEMBERS:,} members")
                self._members += 1
                self._member = zlib.decompressobj(self._wbits)
            block = rest[:_BLOCK_BYTES]
            output += self._member.decompress(block, max_length - len(output))
            rest = rest[len(block) - len(self._member.unused_data) :]
        return bytes(output)

    def end(self) -> None:
        """End the body.

        Raises:
            zlib.error: it is incomplete.
        """
        if not self._member.eof:
            raise zlib.error("it ends too early")


def decompressor(encoding: bytes | None) -> Decompressor | None:
    """Return a decompressor for a content encoding; None if the body is not compressed.

    Raises:
        UnsupportedMedia: the encoding is not supported.
    """
    name = (encoding or b"").decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _WINDOWS:
        raise UnsupportedMedia(
            "unsupported content encoding", expected=" or ".join(_WINDOWS), got=name
        )
    return Decompressor(name)
