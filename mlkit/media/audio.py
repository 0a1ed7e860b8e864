"""The `Audio` type, and conversions from and to files.

Servers decode uploads with `Audio.open`: length and size are checked against the header before
any sample is decoded, and again while decoding. Needs the extra ``audio``.
"""

from __future__ import annotations

import io
import operator
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mlkit.errors import (
    DefinitionError,
    InputError,
    PayloadTooLarge,
    UnsupportedMedia,
    require_extra,
)
from mlkit.media.containers import DEMUXERS, check, corrupt, declared_s, decoding, file_bytes
from mlkit.media.dataurl import to_data_url
from mlkit.media.schema import annotated_schema, data_url_schema, open_serializer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples: TypeAlias = NDArray[np.float32]
else:
    # For `typing.get_type_hints`, without importing numpy.
    Samples: TypeAlias = Any

__all__ = ["MAX_BYTES", "MAX_S", "MAX_SAMPLES", "Audio", "AudioOptions"]

MAX_BYTES = 128 * 2**20
"""Limit for encoded sounds: 128 MiB."""

MAX_S = 600.0
"""Default limit for the length of a sound, in seconds."""

MAX_SAMPLES = 64_000_000
"""Limit for the samples of all channels, 256 MB: eleven minutes in stereo at 48 kHz."""

_PREVIEW_S = 30
_SOUNDFILE = {"AIFF", "FLAC", "MP3", "Ogg", "WAV"}
_AV = {"AAC", "MP4", "WebM"}


@dataclass(frozen=True, kw_only=True)
class AudioOptions:
    """Options of an `Audio` argument: ``Annotated[Audio, AudioOptions(rate=16_000, mono=True)]``.

    They apply to arguments, however they are passed. Results are not changed.

    Attributes:
        rate: samples per second that a sound is resampled to; None to keep its own.
        mono: whether its channels are averaged into one.
        max_s: maximum length in seconds.

    Raises:
        DefinitionError: a number is not positive.
    """

    rate: int | None = None
    mono: bool = False
    max_s: float = MAX_S

    def __post_init__(self) -> None:
        if self.max_s <= 0 or (self.rate is not None and self.rate <= 0):
            raise DefinitionError("rate and max_s must be positive", got=repr(self))

    def apply(self, audio: Audio) -> Audio:
        """Return a sound as the options say.

        Raises:
            PayloadTooLarge: it is longer than ``max_s``.
            MissingExtra: it needs resampling, and the extra ``audio`` is not installed.
        """
        _check_length(len(audio.samples), audio.rate, audio.channels, self.max_s)
        samples = audio.samples
        if self.mono and audio.channels > 1:
            samples = samples.mean(axis=1, keepdims=True)
        if self.rate is not None and self.rate != audio.rate:
            samples = _resampled(samples, audio.rate, self.rate)
        return audio if samples is audio.samples else Audio(samples, self.rate or audio.rate)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let `mlkit.define.nodes` recognize the annotation in models and containers."""
        return annotated_schema(self, source, handler)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Audio:
    """A sound.

    Attributes:
        samples: float32 array [frames, channels], from -1 to 1. An array [frames] becomes a single
            channel, and integers are scaled by their range.
        rate: frames per second.

    Raises:
        InputError: the array has another shape or dtype, or ``rate`` is not positive.
        TypeError: ``rate`` is no integer.
    """

    samples: Samples
    rate: int

    def __post_init__(self) -> None:
        if operator.index(self.rate) <= 0:
            raise InputError("the rate of a sound must be positive", got=repr(self.rate))
        object.__setattr__(self, "samples", _as_samples(self.samples))

    @classmethod
    def open(cls, source: Any, options: AudioOptions = AudioOptions()) -> Audio:
        """Decode a WAV, FLAC, Ogg, MP3, AIFF, AAC, MP4 or WebM file.

        Args:
            source: a path, the bytes of a file, or an `Audio`.
            options: limits, and the rate and channels of the result.

        Raises:
            PayloadTooLarge: the sound exceeds one of the limits.
            UnsupportedMedia: the file has another format, or no sound.
            InputError: the file is empty, truncated or corrupt, or ``source`` has another type.
            FileNotFoundError: the path does not exist.
            MissingExtra: the extra ``audio`` is not installed.
        """
        if isinstance(source, Audio):
            return options.apply(source)
        data = file_bytes(source, "a sound", "an Audio")
        return options.apply(_decoded(data, options.max_s))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Allow sounds as fields of pydantic models; their JSON form is a data: URL."""
        return data_url_schema(cls, lambda audio: to_data_url(audio.wav(), "audio/wav"))

    @property
    def __pydantic_serializer__(self) -> Any:
        return open_serializer(type(self))  # type: ignore[arg-type]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[1])

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate

    def wav(self) -> bytes:
        """Encode as a WAV file of 32-bit floats, without loss."""
        samples = self.samples.astype("<f4", copy=False).tobytes()
        width = 4 * self.channels
        layout = struct.pack("<HHIIHH", 3, self.channels, self.rate, self.rate * width, width, 32)
        frames = struct.pack("<I", len(self.samples))
        chunks = _chunk(b"fmt ", layout + b"\0\0") + _chunk(b"fact", frames)
        return _chunk(b"RIFF", b"WAVE" + chunks + _chunk(b"data", samples))

    def flac(self, bits: int = 24) -> bytes:
        """Encode as a FLAC file.

        Args:
            bits: resolution of a sample, 16 or 24; samples beyond -1 and 1 are clipped.

        Raises:
            InputError: FLAC has no such rate or number of channels.
            MissingExtra: the extra ``audio`` is not installed.
        """
        soundfile = _soundfile()
        out = io.BytesIO()
        try:
            soundfile.write(out, self.samples, self.rate, format="FLAC", subtype=f"PCM_{bits}")
        except soundfile.LibsndfileError as error:
            raise InputError(f"the sound has no FLAC form: {error}", got=repr(self)) from error
        return out.getvalue()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.samples.shape))
        return f"Audio(samples=<float32 {shape}>, rate={self.rate})"

    def _repr_html_(self) -> str:
        start = Audio(self.samples[: _PREVIEW_S * self.rate].mean(axis=1), self.rate)
        cut = f", of which {_PREVIEW_S} s are played" if self.duration_s > _PREVIEW_S else ""
        return (
            f'<audio controls src="{to_data_url(start.flac(16), "audio/flac")}"></audio>'
            f"<div>{self.duration_s:.3g} s, {self.rate:,} Hz, channels: {self.channels}{cut}</div>"
        )


def _as_samples(array: Any) -> Samples:
    import numpy as np

    array = np.asarray(array)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fi":
        raise InputError(
            "not the samples of a sound",
            expected="an array [frames, channels] of floats from -1 to 1, or of integers",
            got=f"{array.dtype} {list(array.shape)}",
        )
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    return np.ascontiguousarray(array, dtype=np.float32)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def _soundfile() -> Any:
    require_extra("audio", "av", "soundfile")
    import soundfile

    return soundfile


def _av() -> Any:
    require_extra("audio", "av", "soundfile")
    import av

    return av


# --- decoding


def _decoded(data: bytes, max_s: float) -> Audio:
    import numpy as np

    kind = check(data, "audio", MAX_BYTES, _SOUNDFILE | _AV)
    decode = _with_soundfile if kind in _SOUNDFILE else _with_av
    samples, rate = decode(data, kind, max_s)
    if not np.isfinite(samples).all():
        raise InputError("the sound has samples that are NaN or infinite")
    return Audio(samples, rate)


def _with_soundfile(data: bytes, kind: str, max_s: float) -> tuple[Samples, int]:
    soundfile = _soundfile()
    with decoding(kind), soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, channels, frames = file.samplerate, file.channels, file.frames
        if frames < 2**62:
            _check_length(frames, rate, channels, max_s)
            samples = file.read(dtype="float32", always_2d=True)
            if len(samples) < frames:
                raise corrupt(kind, f"{len(samples):,} of {frames:,} frames")
            return samples, rate
    # A FLAC file that was written as a stream does not know its length; libsndfile needs it.
    return _with_av(data, kind, max_s)


def _with_av(data: bytes, kind: str, max_s: float) -> tuple[Samples, int]:
    import numpy as np

    av = _av()
    blocks: list[Samples] = []
    frames = 0
    with decoding(kind), av.open(io.BytesIO(data), format=DEMUXERS[kind]) as container:
        if not container.streams.audio:
            raise UnsupportedMedia(f"the {kind} file has no sound", expected="an audio stream")
        stream = container.streams.audio[0]
        rate, channels, header_s = stream.rate, stream.channels, declared_s(stream)
        _check_length(int(header_s * rate), rate, channels, max_s)
        resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
        for decoded in container.decode(stream):
            for block in resampler.resample(decoded):
                blocks.append(block.to_ndarray().reshape(-1, channels))
                frames += len(blocks[-1])
            _check_length(frames, rate, channels, max_s)
    if not frames or frames / rate < 0.98 * header_s - 0.1:  # encoders pad both ends
        raise corrupt(kind, f"{frames / rate:.3g} of {header_s:.3g} s")
    return np.concatenate(blocks), rate


def _max_frames(rate: int, channels: int, max_s: float) -> int:
    return min(int(max_s * rate), MAX_SAMPLES // channels)


def _check_length(frames: int, rate: int, channels: int, max_s: float) -> None:
    most = _max_frames(rate, channels, max_s)
    if frames > most:
        raise PayloadTooLarge(
            "the sound is too long",
            expected=f"at most {most / rate:,.1f} s with {channels} channels at {rate:,} Hz",
            got=f"{frames / rate:,.1f} s",
        )


def _resampled(samples: Samples, rate: int, new_rate: int) -> Samples:
    """Resample each channel; FFmpeg's filter, which keeps the time of the first frame."""
    import numpy as np

    av = _av()
    length = -(-len(samples) * new_rate // rate)
    # Silence after the end: a filter keeps back half of its taps, 16 of the lower rate's.
    padded = np.pad(samples, ((0, 64 * max(1, rate // new_rate)), (0, 0)))
    channels = []
    for k in range(samples.shape[1]):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=new_rate)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(padded[None, :, k]), format="flt", layout="mono"
        )
        frame.sample_rate = rate
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        channels.append(np.concatenate([part.to_ndarray()[0] for part in parts])[:length])
    return np.stack(channels, axis=1)
