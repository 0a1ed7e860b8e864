"""Bombs in image files, and images with damage; both through `mlkit.media.image.decode`.

``python -m benchmarks.hostile.pictures`` decodes each bomb in a process of its own, and prints how
long it took and how much memory, as JSON.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import PIL.Image

from mlkit.errors import InputError
from mlkit.media.image import decode
from mlkit.serving.http.decompression import decompressor
from mlkit.serving.limits import Limits

__all__ = ["BOMBS", "mutations", "survives"]


# ---- files ---------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    width: int, height: int, data: bytes = b"", *, depth: int = 8, mode: int = 2, extra: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@cache
def _deflated(length: int) -> bytes:
    """So many zeros, compressed without having them all in memory."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(length // len(block))]
    return b"".join([*parts, packer.compress(bytes(length % len(block))), packer.flush()])


def _saved(kind: str, size: tuple[int, int] = (16, 12), mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    image = PIL.Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _animated(kind: str, frames: int) -> bytes:
    first, *rest = (PIL.Image.new("RGB", (64, 64), (n % 256, n // 256, 0)) for n in range(frames))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=rest)
    return out.getvalue()


def _jpeg(width: int, height: int) -> bytes:
    data = bytearray(_saved("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _gif(width: int, height: int, frame: tuple[int, int] | None = None) -> bytes:
    data = bytearray(_saved("GIF", mode="P"))
    data[6:10] = struct.pack("<HH", width, height)
    if frame is not None:
        at = data.index(b",\0\0\0\0")
        data[at + 5 : at + 9] = struct.pack("<HH", *frame)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    data = _saved("WEBP", lossless=True)
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _scans(count: int) -> bytes:
    data = _saved("JPEG", (64, 64), progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * count + data[end:]


def _segments(marker: bytes, count: int, start: bytes = b"") -> bytes:
    data = _saved("JPEG")
    body = start + bytes(65_533 - len(start))
    return data[:2] + (marker + struct.pack(">H", 65_535) + body) * count + data[2:]


def _text(kind: bytes, length: int) -> bytes:
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0", b"iCCP": b"k\0\0"}
    return _png(
        16, 12, _deflated(16 * 12 * 3 + 12), extra=_chunk(kind, heads[kind] + _deflated(length))
    )


def _many_data_chunks(count: int) -> bytes:
    data = _png(16, 12, _deflated(16 * 12 * 3 + 12))
    at = data.index(b"IDAT") - 4
    return data[:at] + _chunk(b"IDAT", b"") * count + data[at:]


def _gif_with(extension: bytes) -> bytes:
    data = _saved("GIF", mode="P")
    at = data.index(b",\0\0\0\0")
    return data[:at] + extension + data[at:]


def _comments(parts: int, length: int, count: int = 1) -> bytes:
    part = bytes([length]) + b"c" * length
    return _gif_with((b"!\xfe" + part * parts + b"\0") * count)


def _markers(mode: str, count: int) -> bytes:
    data = _saved("JPEG", mode=mode)
    return data[:2] + b"\xff\xfe\0\x02" * count + data[2:]


def _filled(count: int) -> bytes:
    data = _saved("JPEG", mode="CMYK")
    return data[:2] + b"\xff" * count + data[2:]


def _exif_loop() -> bytes:
    """An EXIF directory whose next and sub-directories are itself."""
    entries = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x8825, 4, 1, 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + struct.pack("<I", 8)
    data = _saved("JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def _exif_huge() -> bytes:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x04\0\xff\xff\xff\xff\x08\0\0\0" * 5_000
    data = _saved("JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def _ico(inner: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (273, 8), (279, 2**31)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 6, 0, 0, 54) + head + bytes(6)


def _bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    huge = 2**31 - 1
    yield "PNG, largest size", lambda: _png(huge, huge)
    yield "PNG, size of 2^32 - 1", lambda: _png(2**32 - 1, 2**32 - 1)
    yield "PNG, 1 x 2^31 - 1", lambda: _png(1, huge)
    yield "PNG, 2^31 - 1 x 1", lambda: _png(huge, 1)
    yield "PNG, 0 x 2^31 - 1", lambda: _png(0, huge)
    yield "PNG, 50,000 x 50,000 of zeros", lambda: _png(50_000, 50_000, _deflated(2**27))
    yield "PNG, 16 bits, 20,000 x 20,000", lambda: _png(20_000, 20_000, depth=16, mode=6)
    yield "PNG, palette without colours", lambda: _png(30_000, 30_000, mode=3)
    yield "PNG, IDAT far longer than the image", lambda: _png(16, 12, _deflated(2**28))
    yield "PNG, IDAT without an end", lambda: _png(16, 12, _deflated(2**28)[:-5])
    yield "PNG, 1,000,000 texts", lambda: _png(16, 12, extra=_chunk(b"tEXt", b"k\0v") * 1_000_000)
    yield "PNG, 1,300,000 empty chunks of data", lambda: _many_data_chunks(1_300_000)
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        for length in (2**26, 2**28):
            name = f"PNG, {kind.decode()} of {length >> 20:,} MiB"
            yield name, lambda kind=kind, length=length: _text(kind, length)  # type: ignore[misc]
    yield "PNG, chunk longer than the file", lambda: _saved("PNG")[:33] + b"\x7f\xff\xff\xffIDAT"
    yield "PNG, truncated", lambda: _saved("PNG", (500, 500))[:-20_000]
    yield "APNG of 1,000 frames", lambda: _animated("PNG", 1_000)
    yield "GIF, 65,535 x 65,535", lambda: _gif(65_535, 65_535)
    yield "GIF, frame larger than its canvas", lambda: _gif(16, 12, (65_535, 65_535))
    yield "GIF, 1,000 frames", lambda: _animated("GIF", 1_000)
    yield "GIF, comment of 200,000 parts", lambda: _comments(200_000, 100)
    yield "GIF, 2,000,000 comments", lambda: _comments(1, 1, 2_000_000)
    yield "GIF, 2,500,000 extensions", lambda: _gif_with(b"!\xff\x0bNETSCAPE2.0\x00" * 1_000_000)
    yield "GIF, truncated", lambda: _saved("GIF", (300, 300), "P")[:-5_000]
    yield "WebP, 2^24 x 2^24", lambda: _webp(2**24, 2**24)
    yield "WebP, canvas of 16,383 x 16,383", lambda: _webp(16_383, 16_383)
    yield "WebP of 200 frames", lambda: _animated("WEBP", 200)
    yield "WebP, truncated", lambda: _saved("WEBP", (300, 300))[:-2_000]
    yield "JPEG, 65,535 x 65,535", lambda: _jpeg(65_535, 65_535)
    yield "JPEG, 65,500 x 1,000", lambda: _jpeg(65_500, 1_000)
    yield "JPEG, 0 x 0", lambda: _jpeg(0, 0)
    yield "JPEG, 1,000 scans", lambda: _scans(1_000)
    yield "JPEG, 100,000 scans", lambda: _scans(100_000)
    yield "JPEG, 300 EXIF blocks", lambda: _segments(b"\xff\xe1", 300, b"Exif\0\0")
    yield "JPEG, 300 ICC blocks", lambda: _segments(b"\xff\xe2", 300, b"ICC_PROFILE\0\x01\xff")
    yield "JPEG, 300 comments", lambda: _segments(b"\xff\xfe", 300)
    yield "JPEG, 4,000,000 empty comments", lambda: _markers("RGB", 4_000_000)
    yield "JPEG, CMYK, 4,000,000 empty comments", lambda: _markers("CMYK", 4_000_000)
    yield "JPEG, CMYK, 5,000,000 fill bytes", lambda: _filled(5_000_000)
    yield "JPEG, EXIF that contains itself", _exif_loop
    yield "JPEG, EXIF of 65,535 entries", _exif_huge
    yield "JPEG, truncated", lambda: _saved("JPEG", (500, 500))[:-20_000]
    yield "TIFF, 2^31 x 2^31", lambda: _tiff(2**31, 2**31)
    yield "BMP, 2^31 - 1 x 2^31 - 1", lambda: _bmp(huge, huge)
    yield "ICO with a PNG of 50,000 x 50,000", lambda: _ico(_png(50_000, 50_000))
    yield "ICO in an ICO", lambda: _ico(_ico(_ico(_png(huge, huge))))
    yield "JPEG 2000", lambda: _saved("JPEG2000", (64, 64))
    yield "AVIF", lambda: _saved("AVIF", (64, 64))
    yield "zeros, 21 MiB", lambda: bytes(21 * 2**20)
    for encoding in ("gzip", "deflate"):
        for layers in (1, 2):
            name = f"body: {encoding}, {layers} times"
            yield name, lambda e=encoding, n=layers: _packed(e, n)  # type: ignore[misc]
    yield "body: gzip of 100,000 members", lambda: b"gzip\0" + gzip.compress(b"") * 100_000
    yield "body: zstd", lambda: b"zstd\0\x28\xb5\x2f\xfd" + bytes(99)
    yield "body: br", lambda: b"br\0" + bytes(99)


def _packed(encoding: str, layers: int) -> bytes:
    """A compressed body: the name of its encoding, then zeros, compressed so many times."""
    data = _deflated(2**28)
    for _ in range(layers - 1):
        data = zlib.compress(data, 9)
    if encoding == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        block = bytes(2**20)
        data = b"".join([packer.compress(block) for _ in range(2**8)]) + packer.flush()
        for _ in range(layers - 1):
            data = gzip.compress(data)
    return encoding.encode() + b"\0" + data


BOMBS: Mapping[str, Callable[[], bytes]] = dict(_bombs())
"""What makes each of them; a body starts with the name of its content encoding, and a null."""


def _open(name: str, data: bytes) -> None:
    if not name.startswith("body: "):
        decode(data)
        return
    encoding, _, body = data.partition(b"\0")
    limit = Limits().max_body_bytes
    unpacking = decompressor(encoding)
    assert unpacking is not None
    try:
        unpacked = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(str(error)) from None
    if len(unpacked) > limit:
        raise InputError("the body is too large")
    decode(unpacked)


# ---- measuring -----------------------------------------------------------------------------------


def _main() -> None:
    decode(_saved("PNG")), decode(_saved("JPEG")), decode(_saved("WEBP"))  # imports
    for name, make in BOMBS.items():
        data = make()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _report(name, data)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"name": name, "outcome": f"exit {status}", "s": 0.0, "mb": 0.0}))


def _report(name: str, data: bytes) -> None:
    before, began = _peak_mb(), time.perf_counter()
    try:
        _open(name, data)
        outcome = "200"
    except InputError as error:
        outcome = str(error.status)
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    took_s = time.perf_counter() - began
    more = _peak_mb() - before
    print(json.dumps({"name": name, "outcome": outcome, "s": took_s, "mb": more}))


def _peak_mb() -> float:
    """Largest resident memory so far; a child starts with what its parent has now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- damage --------------------------------------------------------------------------------------


def _originals() -> list[bytes]:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    plain = [_saved(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO")]
    return [
        *plain,
        _saved("PNG", mode="RGBA"),
        _saved("PNG", mode="P"),
        _saved("PNG", mode="L"),
        _saved("JPEG", mode="CMYK"),
        _saved("JPEG", mode="L"),
        _saved("JPEG", progressive=True, exif=exif.tobytes()),
        _saved("WEBP", lossless=True, exif=exif.tobytes()),
        _animated("GIF", 3),
        _animated("WEBP", 3),
        _animated("PNG", 3),
    ]


def mutations(count: int, seed: int = 0) -> Iterator[bytes]:
    """Small images of all formats with flipped bits, missing ends, and parts of each other."""
    draw, originals = random.Random(seed), _originals()
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(draw.choice([1, 1, 2, 8, 64])):
            _damage(data, draw, originals)
        yield bytes(data)


def _damage(data: bytearray, draw: random.Random, originals: list[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    how = draw.randrange(6)
    if how <= 1 and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif how == 2:
        data[at : at + 4] = draw.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
    elif how == 3:
        del data[max(at, 8) :]
    elif how == 4:
        other = draw.choice(originals)
        start = draw.randrange(len(other))
        data[at:at] = other[start : start + draw.randrange(200)]
    else:
        del data[at : at + draw.randrange(20)]


def survives(data: bytes) -> str:
    """Decode damaged data.

    Returns:
        "decoded", "refused", or what was raised beside `InputError`.
    """
    try:
        decode(data)
    except InputError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "decoded"


if __name__ == "__main__":
    _main()
