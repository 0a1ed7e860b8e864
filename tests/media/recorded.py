"""Sound and video files that tests make."""

import io
import struct
from collections.abc import Callable

import av
import numpy as np
import soundfile

RATE = 48_000
TIME = np.arange(RATE // 2) / RATE
TONES = np.stack([np.sin(2_765 * TIME), 0.5 * np.cos(2_073 * TIME)], axis=1).astype(np.float32)


def _with_soundfile(kind: str, **options: str) -> Callable[[], bytes]:
    def encode() -> bytes:
        out = io.BytesIO()
        soundfile.write(out, TONES, RATE, format=kind, **options)
        return out.getvalue()

    return encode


def _with_av(kind: str, codec: str) -> Callable[[], bytes]:
    def encode() -> bytes:
        out = io.BytesIO()
        with av.open(out, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=RATE, layout="stereo")
            context = stream.codec_context
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(TONES.T), format="fltp", layout="stereo"
            )
            frame.sample_rate = RATE
            context.open()
            frames = av.AudioResampler(context.format, "stereo", RATE, context.frame_size)
            for part in (frame, None):
                for block in frames.resample(part):
                    container.mux(stream.encode(block))
            container.mux(stream.encode())
        return out.getvalue()

    return encode


SOUNDS: dict[str, Callable[[], bytes]] = {
    "WAV": _with_soundfile("WAV"),
    "FLAC": _with_soundfile("FLAC"),
    "Ogg": _with_soundfile("OGG"),
    "Opus": _with_soundfile("OGG", subtype="OPUS"),
    "MP3": _with_soundfile("MP3"),
    "AIFF": _with_soundfile("AIFF"),
    "MP4": _with_av("mp4", "aac"),
    "WebM": _with_av("webm", "libopus"),
    "AAC": _with_av("adts", "aac"),
}
"""Encoders of half a second of `TONES`, by kind of file."""


def film(
    shades: list[int],
    kind: str = "mp4",
    codec: str = "mpeg4",
    *,
    rate: int = 10,
    size: tuple[int, int] = (32, 16),
    rotation: int = 0,
    keyframes: int = 12,
) -> bytes:
    """Encode a video with a grey frame for each shade; the left half of a frame is black.

    Args:
        shades: from 0 to 255.
        kind: FFmpeg's name of the format.
        codec: FFmpeg's name of the encoder.
        rate: frames per second.
        size: width and height in pixels.
        rotation: degrees, anticlockwise, that a player turns the video by.
        keyframes: frames from one keyframe to the next.
    """
    out = io.BytesIO()
    width, height = size
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size, stream.thread_count, stream.bit_rate = keyframes, 1, 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for shade in shades:
            pixels = np.full((height, width, 3), shade, np.uint8)
            pixels[:, : width // 2] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A video whose header says that its frames are of a size."""
    data = film([0], "webm", "libvpx", size=(272, 288))
    old, new = (
        b"\xb0\x82%b\xba\x82%b" % (struct.pack(">H", x), struct.pack(">H", y))
        for x, y in ((272, 288), (width, height))
    )
    assert data.count(old) == 1
    return data.replace(old, new)
