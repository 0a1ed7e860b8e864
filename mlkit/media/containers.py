"""Kinds of sound and video files, recognized by their first bytes, and those that were cut off.

A decoder is only ever asked for the kind that was recognized: FFmpeg guesses playlists as well, and
opens what these name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlkit.errors import InputError, PayloadTooLarge, UnsupportedMedia
from mlkit.media.imagefile import describe

__all__ = ["DEMUXERS", "check", "corrupt", "declared_s", "decoding", "file_bytes"]

DEMUXERS = {"MP4": "mov", "WebM": "matroska", "AVI": "avi", "AAC": "aac", "FLAC": "flac"}
"""FFmpeg's demuxers, by kind."""

UNKNOWN_SIZE = 0x7FFF_0000
"""A WAV file whose header was written before its length was known claims at least this much."""


def file_bytes(source: Any, noun: str, type_name: str) -> bytes:
    """Return the bytes of a file, given those or its path.

    Raises:
        InputError: ``source`` has another type.
        FileNotFoundError: the path does not exist.
    """
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise InputError(
            f"cannot be converted to {noun}",
            expected=f"a path, the bytes of a file, or {type_name}",
            got=f"an object of type {type(source).__name__}",
        )
    return bytes(source)


def check(data: bytes, noun: str, max_bytes: int, kinds: set[str]) -> str:
    """Return the kind of a file, before anything of it is decoded.

    Args:
        data: the whole file.
        noun: what it should be, for errors.
        max_bytes: maximum length of ``data``.
        kinds: kinds that are supported.

    Raises:
        PayloadTooLarge: the file is longer than ``max_bytes``.
        UnsupportedMedia: it is of no such kind.
        InputError: it is empty or truncated.
    """
    if not data:
        raise InputError(f"the {noun} file is empty", expected="a complete file", got="0 bytes")
    if len(data) > max_bytes:
        raise PayloadTooLarge(
            f"the {noun} file is too large",
            expected=f"at most {max_bytes:,} bytes",
            got=f"{len(data):,}",
        )
    kind = next((name for name, is_kind in _KINDS.items() if is_kind(data)), "")
    if kind not in kinds:
        raise UnsupportedMedia(
            f"unsupported {noun} format",
            expected=", ".join(sorted(kinds)),
            got=kind or describe(data),
        )
    ends = _ENDS.get(kind)
    if ends is not None and ends(data) > len(data):
        raise corrupt(kind, "it ends too early")
    return kind


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Turn what decoders raise into an error that says that the file is truncated or corrupt."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # decoders raise anything on corrupt data
        raise corrupt(kind, error) from error


def corrupt(kind: str, cause: object) -> InputError:
    """Return the error for a file that cannot be decoded to its end."""
    return InputError(
        f"the {kind} file is truncated or corrupt",
        expected="a complete file",
        got=f"decoder error: {cause}",
    )


def declared_s(stream: Any) -> float:
    """Return the length of a stream by its header, in seconds; 0 if it is not known."""
    return float(stream.duration * stream.time_base) if stream.duration else 0.0


def _is_mp3(data: bytes) -> bool:
    # Eleven bits of synchronization, then version and layer: a layer of 0 is AAC's.
    sync = data[0] == 0xFF and data[1:2] >= b"\xe0" and data[1] & 0x06 != 0
    return data.startswith(b"ID3") or sync


_KINDS: Mapping[str, Callable[[bytes], bool]] = {
    "WAV": lambda data: data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE",
    "AVI": lambda data: data[:4] == b"RIFF" and data[8:12] == b"AVI ",
    "AIFF": lambda data: data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"),
    "FLAC": lambda data: data.startswith(b"fLaC"),
    "Ogg": lambda data: data.startswith(b"OggS"),
    "MP4": lambda data: data[4:8] == b"ftyp",
    "WebM": lambda data: data.startswith(b"\x1a\x45\xdf\xa3"),
    "MP3": _is_mp3,
    "AAC": lambda data: data[0] == 0xFF and len(data) > 1 and data[1] & 0xF6 == 0xF0,
}


# --- where a file should end, in bytes from its start


def _wav_end(data: bytes) -> int:
    """The end of the samples; RIFF's own length is often wrong."""
    for name, start, size in _chunks(data):
        if name == b"data":
            return 0 if size >= UNKNOWN_SIZE else start + size
    return len(data) + 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of the chunks of a RIFF file."""
    start = 12
    while start + 8 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        yield data[start : start + 4], start + 8, size
        start += 8 + size + size % 2


def _mp4_end(data: bytes) -> int:
    """The end of the last box: ISO/IEC 14496-12, section 4.2."""
    start = 0
    while start < len(data):
        size, header = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:  # to the end of the file
            return len(data)
        if size < header:
            break
        start += size
    return start


def _webm_end(data: bytes) -> int:
    """The end of the segment, which follows a header: RFC 8794, sections 4 to 6."""
    end, position = 0, 0
    for _ in range(2):
        position += _vint_length(data, position)  # the element's id
        length = _vint_length(data, position)
        value = int.from_bytes(data[position : position + length], "big")
        size = value & ((1 << 7 * length) - 1)
        position += length
        if size == (1 << 7 * length) - 1:  # of unknown size: recorded live
            return 0
        end = position = position + size
    return end


def _vint_length(data: bytes, position: int) -> int:
    first = data[position] if position < len(data) else 0
    return 9 - first.bit_length() if first else 8


def _ogg_end(data: bytes) -> int:
    """The end of the last page: RFC 3533, section 6."""
    table = data.rfind(b"OggS") + 27
    count = data[table - 1] if table <= len(data) else 0
    return table + count + sum(data[table : table + count])


_ENDS: Mapping[str, Callable[[bytes], int]] = {
    "WAV": _wav_end,
    "AVI": lambda data: 8 + int.from_bytes(data[4:8], "little"),
    "AIFF": lambda data: 8 + int.from_bytes(data[4:8], "big"),
    "MP4": _mp4_end,
    "WebM": _webm_end,
    "Ogg": _ogg_end,
}
