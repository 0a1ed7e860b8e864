"""The `Video` type: an encoded file whose frames are decoded one by one, when they are needed.

`Video.open` reads the header and counts the packets, but decodes nothing: limits on pixels and
length are checked before. Needs the extra ``video``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mlkit.errors import (
    DefinitionError,
    InputError,
    PayloadTooLarge,
    UnsupportedMedia,
    require_extra,
)
from mlkit.media.containers import DEMUXERS, check, corrupt, declared_s, decoding, file_bytes
from mlkit.media.dataurl import to_data_url
from mlkit.media.image import Image
from mlkit.media.schema import annotated_schema, data_url_schema, open_serializer

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MAX_S", "Video", "VideoOptions"]

MAX_BYTES = 512 * 2**20
"""Limit for encoded videos: 512 MiB."""

MAX_PIXELS = 4096 * 2304
"""Default limit for a frame, in pixels: 4K, which is a quarter of 8K."""

MAX_S = 600.0
"""Default limit for the length of a video, in seconds."""

MEDIA_TYPES = {"MP4": "video/mp4", "WebM": "video/webm", "AVI": "video/x-msvideo"}
"""Content types, by kind of file."""

_MISSING_S = 0.5  # headers are rounded, and sound may end later
_REORDERED_S = 0.5  # between the times at which a frame is decoded and shown, at most
_SAME_S = 1e-3  # times are rounded to milliseconds in WebM
_THUMBNAILS = 6
_THUMBNAIL_SIDE = 120  # pixels


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of a `Video` argument: ``Annotated[Video, VideoOptions(max_s=30)]``.

    Attributes:
        max_s: maximum length in seconds.
        max_pixels: maximum width times height of a frame.

    Raises:
        DefinitionError: a limit is not positive.
    """

    max_s: float = MAX_S
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.max_s <= 0 or self.max_pixels <= 0:
            raise DefinitionError("max_s and max_pixels must be positive", got=repr(self))

    def check(self, width: int, height: int, duration_s: float) -> None:
        """Raise `PayloadTooLarge` for a video that exceeds a limit."""
        if width * height > self.max_pixels:
            raise PayloadTooLarge(
                "the video has too many pixels",
                expected=f"at most {self.max_pixels:,} in a frame",
                got=f"{width} x {height} = {width * height:,}",
            )
        if duration_s > self.max_s:
            raise PayloadTooLarge(
                "the video is too long",
                expected=f"at most {self.max_s:,.1f} s",
                got=f"{duration_s:,.1f} s",
            )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let `mlkit.define.nodes` recognize the annotation in models and containers."""
        return annotated_schema(self, source, handler)


_UNLIMITED = VideoOptions(max_s=math.inf, max_pixels=2**40)


@dataclass(frozen=True, slots=True)
class Video:
    """An encoded video, in an MP4, WebM or AVI file. Two are equal if their bytes are.

    Attributes:
        data: the file.
        width: width of the upright frames, in pixels.
        height: height of the upright frames, in pixels.
        duration_s: length in seconds, from the first frame to the end of the last.
        rate: frames per second, on average.
        kind: ``"MP4"``, ``"WebM"`` or ``"AVI"``.
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    duration_s: float
    rate: float
    kind: str

    @classmethod
    def open(cls, source: Any, options: VideoOptions = VideoOptions()) -> Video:
        """Read the header of an MP4, WebM or AVI file, and check it against limits.

        Args:
            source: a path, the bytes of a file, or a `Video`.
            options: the limits.

        Raises:
            PayloadTooLarge: the video exceeds one of the limits.
            UnsupportedMedia: the file has another format, or no video.
            InputError: the file is empty, truncated or corrupt, or ``source`` has another type.
            FileNotFoundError: the path does not exist.
            MissingExtra: the extra ``video`` is not installed.
        """
        if isinstance(source, Video):
            options.check(source.width, source.height, source.duration_s)
            return source
        return _read(file_bytes(source, "a video", "a Video"), options)

    @classmethod
    def from_frames(cls, frames: Iterable[Any], rate: float) -> Video:
        """Encode frames as H.264 in an MP4 file.

        Args:
            frames: whatever `Image.open` accepts, all of the size of the first. A side of an odd
                number of pixels loses one.
            rate: frames per second.

        Raises:
            InputError: there are no frames, or a frame cannot be converted.
            MissingExtra: the extra ``video`` is not installed.
        """
        av = _av()
        out = io.BytesIO()
        stream: Any = None
        with av.open(out, "w", format="mp4") as container:
            for frame in frames:
                pixels = Image.open(frame).pixels
                if stream is None:
                    stream = container.add_stream("h264", Fraction(rate).limit_denominator(1001))
                    stream.height, stream.width = (side // 2 * 2 for side in pixels.shape[:2])
                    stream.pix_fmt, stream.thread_count = "yuv420p", 1
                pixels = pixels[: stream.height, : stream.width].copy()
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if stream is None:
                raise InputError("a video needs at least one frame")
            container.mux(stream.encode())
        return _read(out.getvalue(), _UNLIMITED)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Allow videos as fields of pydantic models; their JSON form is a data: URL."""
        return data_url_schema(cls, lambda video: to_data_url(video.data, video.media_type))

    @property
    def __pydantic_serializer__(self) -> Any:
        return open_serializer(type(self))  # type: ignore[arg-type]

    @property
    def media_type(self) -> str:
        """Content type of the file."""
        return MEDIA_TYPES[self.kind]

    def frames(self, every_s: float = 1.0, limit: int | None = None) -> Iterator[Image]:
        """Yield the images that are shown at 0, ``every_s``, 2 * ``every_s``... seconds.

        Frames are decoded as they are taken, so that one is in memory at a time; where the next
        keyframe comes before the next image, the frames up to it are skipped.

        Args:
            every_s: seconds from one image to the next.
            limit: maximum number of images; None for as many as there are.

        Raises:
            ValueError: ``every_s`` is not positive.
            PayloadTooLarge: a frame is larger than the header says.
            InputError: the file is truncated or corrupt.
        """
        if not every_s > 0:
            raise ValueError(f"every_s must be positive, got {every_s}")
        count = max(1, math.ceil(round(self.duration_s / every_s, 6)))
        return self._sampled(every_s, count if limit is None else min(count, limit))

    def _sampled(self, every_s: float, count: int) -> Iterator[Image]:
        with _opened(self.data, self.kind, self.width * self.height) as (container, stream):
            decoded = container.decode(stream)
            with decoding(self.kind):
                start, shown, following = None, None, next(decoded, None)
            for index in range(count):
                due_s = index * every_s
                with decoding(self.kind):
                    while following is not None:
                        at_s = following.time
                        start = at_s if start is None else start
                        if at_s - start > due_s + _SAME_S:
                            break
                        if _skip(container, stream, start + due_s, at_s):
                            decoded = container.decode(stream)
                        shown, following = following, next(decoded, None)
                    if shown is None or (following is None and self._is_cut_off(shown, start)):
                        raise corrupt(self.kind, "frames are missing")
                    image = _image(shown)
                yield image

    def _is_cut_off(self, last: Any, start: Any) -> bool:
        return bool(last.time - start + 1 / self.rate < self.duration_s - _MISSING_S)

    def _repr_html_(self) -> str:
        import PIL.Image

        strip: Any = None
        every_s = self.duration_s / _THUMBNAILS
        for k, frame in enumerate(self.frames(every_s, _THUMBNAILS)):
            small = frame.pil()
            small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            strip = strip or PIL.Image.new("RGB", (_THUMBNAILS * small.width, small.height))
            strip.paste(small, (k * small.width, 0))
        out = io.BytesIO()
        strip.save(out, "JPEG", quality=82)
        return (
            f'<img src="{to_data_url(out.getvalue(), "image/jpeg")}">'
            f"<div>{self.width} × {self.height}, {self.duration_s:.3g} s, "
            f"{self.rate:.3g} frames per second, {self.kind}</div>"
        )


def _av() -> Any:
    require_extra("video", "av")
    import av

    return av


def _read(data: bytes, options: VideoOptions) -> Video:
    kind = check(data, "video", MAX_BYTES, set(MEDIA_TYPES))
    start, end, packets, size = math.inf, -math.inf, 0, None
    with _opened(data, kind, options.max_pixels) as (container, stream), decoding(kind):
        header_s = declared_s(stream)
        options.check(stream.width, stream.height, header_s)
        for packet in container.demux(stream):
            if size is None:
                size = next((_image_size(frame) for frame in packet.decode()), None)
            if packet.pts is not None:
                start, end = min(start, packet.pts), max(end, packet.pts + (packet.duration or 0))
                packets += 1
                options.check(0, 0, float((end - start) * stream.time_base))
        if size is None or end <= start:
            raise corrupt(kind, "no frames")
        options.check(*size, 0)
        duration_s = float((end - start) * stream.time_base)
    if duration_s < header_s - _MISSING_S:
        raise corrupt(kind, f"{duration_s:.3g} of {header_s:.3g} s")
    return Video(data, *size, duration_s, packets / duration_s, kind)


@contextmanager
def _opened(data: bytes, kind: str, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    av = _av()
    with decoding(kind):
        container = av.open(io.BytesIO(data), format=DEMUXERS[kind])
    with container:
        if not container.streams.video:
            raise UnsupportedMedia(f"the {kind} file has no video", expected="a video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnsupportedMedia(f"the codec of the {kind} file is not known")
        # For a file whose frames are larger than it says; decoders ask for some room around them.
        most = min(max_pixels + MAX_PIXELS, 2**31 - 1)
        stream.codec_context.options = {"max_pixels": str(most)}
        stream.codec_context.thread_count = 1
        yield container, stream


def _skip(container: Any, stream: Any, due_s: float, at_s: float) -> bool:
    """Seek to the last keyframe before a time, if there is one after the current frame."""
    # The index has times of decoding, which are earlier than those of showing.
    target = int((due_s - _REORDERED_S) / stream.time_base)
    entries = stream.index_entries
    number = entries.search_timestamp(target, backward=True)
    if number < 0 or entries[number].timestamp * stream.time_base <= at_s + _REORDERED_S:
        return False
    container.seek(target, stream=stream)
    return True


def _image(frame: Any) -> Image:
    import numpy as np

    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    height, width, _ = pixels.shape
    return Image(np.ascontiguousarray(pixels), width, height)


def _image_size(frame: Any) -> tuple[int, int]:
    """Width and height of an upright frame."""
    sizes = (frame.width, frame.height)
    return sizes[::-1] if frame.rotation // 90 % 2 else sizes
