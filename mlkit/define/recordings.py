"""Sounds and videos at the border: as files, and as ``data:`` URLs in JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlkit.define.port import Port
from mlkit.errors import require_extra
from mlkit.media.audio import Audio, AudioOptions
from mlkit.media.dataurl import bytes_of_data_url, to_data_url
from mlkit.media.video import MEDIA_TYPES, Video, VideoOptions

__all__ = ["OPTIONS", "audio_port", "video_port"]

_VIDEO_TYPES = ", ".join([*MEDIA_TYPES.values(), "video/*"])

OPTIONS = (AudioOptions, VideoOptions)
"""Marks of annotations that these ports apply themselves."""


def audio_port(annotation: Any) -> Port:
    """Return the port of `Audio`, whose options may be in the annotation.

    Raises:
        MissingExtra: soundfile or PyAV is not installed.
    """
    require_extra("audio", "av", "soundfile")
    options = _options(annotation, AudioOptions())
    return _port(
        annotation,
        lambda source: Audio.open(source, options),
        lambda value: (_audio(value).wav(), "audio/wav"),
        "audio/wav, audio/*",
        "a sound",
        encodings={"audio/flac": lambda value: _audio(value).flac()},
    )


def _audio(value: Any) -> Audio:
    return value if isinstance(value, Audio) else Audio.open(value)  # limits are for arguments


def video_port(annotation: Any) -> Port:
    """Return the port of `Video`, whose options may be in the annotation.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    require_extra("video", "av")
    options = _options(annotation, VideoOptions())

    def to_bytes(value: Any) -> tuple[bytes, str]:
        video = value if isinstance(value, Video) else Video.open(value)
        return video.data, video.media_type

    return _port(
        annotation, lambda source: Video.open(source, options), to_bytes, _VIDEO_TYPES, "a video"
    )


def _options(annotation: Any, default: Any) -> Any:
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, type(default))), default)


def _port(
    annotation: Any,
    load: Callable[[Any], Any],
    to_bytes: Callable[[Any], tuple[bytes, str]],
    media_type: str,
    noun: str,
    **more: Any,
) -> Port:
    return Port(
        annotation,
        lambda value: load(bytes_of_data_url(value)),
        lambda value: to_data_url(*to_bytes(value)),
        load,
        {
            "type": "string",
            "format": "uri",
            "pattern": "^[dD][aA][tT][aA]:",
            "description": f"a data: URL of {noun}",
        },
        upload=True,
        media_type=media_type,
        from_bytes=load,
        to_bytes=to_bytes,
        **more,
    )
