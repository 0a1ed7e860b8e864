"""Sounds from files and to files, within limits."""

import io
import re
import struct

import numpy as np
import pytest
import soundfile

from mlkit import errors
from mlkit.errors import (
    DefinitionError,
    InputError,
    MissingExtra,
    PayloadTooLarge,
    UnsupportedMedia,
)
from mlkit.media import audio
from mlkit.media.audio import Audio, AudioOptions
from mlkit.media.preview import words
from tests.media.recorded import RATE, SOUNDS, TIME, TONES, film


def sine(rate: int, hertz: float = 440.0, seconds: float = 0.25) -> Audio:
    return Audio(np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate), rate)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {name: encode() for name, encode in SOUNDS.items()}


@pytest.mark.parametrize("name", SOUNDS)
def test_each_kind_gives_its_channels_and_rate(files: dict[str, bytes], name: str) -> None:
    sound = Audio.open(files[name])
    assert (sound.channels, sound.rate, sound.samples.dtype) == (2, RATE, np.float32)
    assert sound.duration_s == pytest.approx(0.5, abs=0.05)
    loudness = np.sqrt((sound.samples**2).mean(axis=0))
    assert loudness == pytest.approx([0.7, 0.35], abs=0.08)


@pytest.mark.parametrize("name", ["WAV", "FLAC", "AIFF"])
def test_a_kind_without_loss_keeps_the_samples(files: dict[str, bytes], name: str) -> None:
    assert np.abs(Audio.open(files[name]).samples - TONES).max() < 1e-4


@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", SOUNDS)
def test_a_file_that_was_cut_off_is_refused(
    files: dict[str, bytes], name: str, part: float
) -> None:
    data = files[name]
    with pytest.raises(InputError, match="truncated or corrupt") as refused:
        Audio.open(data[: int(len(data) * part)])
    assert refused.value.status == 422


@pytest.mark.parametrize("name", ["WAV", "FLAC", "Ogg", "MP4", "WebM", "AAC"])
def test_a_damaged_file_is_an_error_of_its_sender(files: dict[str, bytes], name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(files[name])
        for place in rng.integers(0, min(400, len(data)), 8):
            data[place] = rng.integers(256)
        try:
            Audio.open(bytes(data))
        except InputError:
            continue


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0AVI LIST", b"#EXTM3U\nhttp://a/b", b"{}", b"\xff"]
)
def test_another_kind_of_file_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="unsupported audio format"):
        Audio.open(data)


def test_a_film_without_sound_is_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match="no sound"):
        Audio.open(film([0, 0]))


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Audio.open(b"")


def claiming(seconds: int) -> bytes:
    """A FLAC file whose header says how long it is."""
    data = bytearray(sine(8_000).flac())
    (total,) = struct.unpack(">Q", data[18:26])
    data[18:26] = struct.pack(">Q", total >> 36 << 36 | seconds * 8_000)
    return bytes(data)


@pytest.mark.parametrize(
    "data", [claiming(36_000), Audio(np.zeros(36_000), 1).wav()], ids=["claimed", "long"]
)
def test_ten_hours_are_refused_before_decoding(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(PayloadTooLarge, match=r"at most 600.0 s .* got 36,000.0 s"):
        Audio.open(data)


def test_a_file_that_was_written_as_a_stream_has_no_length_and_still_a_limit() -> None:
    data = claiming(0)
    assert Audio.open(data).duration_s == 0.25
    with pytest.raises(PayloadTooLarge):
        Audio.open(data, AudioOptions(max_s=0.2))


@pytest.mark.parametrize("name", ["MP4", "WebM", "AAC"])
def test_what_a_header_does_not_say_is_limited_while_decoding(
    files: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "declared_s", lambda stream: 0.0)
    with pytest.raises(PayloadTooLarge, match=re.escape("at most 0.2 s")):
        Audio.open(files[name], AudioOptions(max_s=0.2))


def test_samples_of_all_channels_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Audio(np.zeros((100, 4)), 8_000).wav()
    monkeypatch.setattr(audio, "MAX_SAMPLES", 400)
    assert Audio.open(data).channels == 4
    monkeypatch.setattr(audio, "MAX_SAMPLES", 399)
    with pytest.raises(PayloadTooLarge, match="4 channels"):
        Audio.open(data)


def test_the_size_of_a_file_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_BYTES", 50)
    with pytest.raises(PayloadTooLarge, match="at most 50 bytes"):
        Audio.open(sine(8_000).wav())


def test_samples_must_be_finite() -> None:
    with pytest.raises(InputError, match="NaN"):
        Audio.open(Audio(np.array([0, np.nan]), 8_000).wav())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0.5, -0.25]), [[0.5], [-0.25]]),
        (np.array([[16_384, -32_768]], np.int16), [[0.5, -1.0]]),
        ([[0.5, 1.0]], [[0.5, 1.0]]),
        (np.zeros((0, 2), np.float32), []),
    ],
)
def test_samples_become_float32_with_channels(array: object, expected: list[object]) -> None:
    samples = Audio(array, 8_000).samples
    assert samples.dtype == np.float32
    assert samples.tolist() == expected


@pytest.mark.parametrize("array", [np.zeros((1, 1, 1)), np.zeros((4, 0)), np.array(["a"]), 1.0])
def test_an_array_that_is_no_sound_is_refused(array: object) -> None:
    with pytest.raises(InputError, match="not the samples of a sound"):
        Audio(array, 8_000)


def test_a_rate_is_a_positive_integer() -> None:
    with pytest.raises(InputError, match="positive"):
        Audio(TIME, 0)
    with pytest.raises(TypeError):
        Audio(TIME, 0.5)  # type: ignore[arg-type]
    for options in ({"rate": 0}, {"max_s": 0}):
        with pytest.raises(DefinitionError):
            AudioOptions(**options)


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(44_100, 16_000), (8_000, 48_000), (48_000, 44_100)]
)
def test_a_resampled_tone_is_the_same_tone(rate: int, new_rate: int) -> None:
    resampled = AudioOptions(rate=new_rate).apply(sine(rate))
    expected = sine(new_rate)
    assert resampled.rate == new_rate
    assert resampled.samples.shape == expected.samples.shape
    middle = slice(200, -200)
    assert np.abs(resampled.samples[middle] - expected.samples[middle]).max() < 1e-3


@pytest.mark.parametrize("frames", [1, 2, 100])
def test_a_short_sound_keeps_its_length_when_resampled(frames: int) -> None:
    short = AudioOptions(rate=16_000).apply(Audio(np.ones(frames), 44_100))
    assert len(short.samples) == -(-frames * 16_000 // 44_100)


def test_mono_is_the_mean_of_the_channels() -> None:
    mono = AudioOptions(mono=True).apply(Audio(np.array([[1.0, 0.0], [0.5, 0.5]]), 8_000))
    assert mono.samples.tolist() == [[0.5], [0.5]]


def test_options_apply_to_sounds_as_to_files() -> None:
    options = AudioOptions(rate=16_000, mono=True, max_s=0.6)
    sound = Audio(TONES, RATE)
    opened = Audio.open(sound.wav(), options)
    assert np.array_equal(opened.samples, Audio.open(sound, options).samples)
    assert opened.samples.shape == (8_000, 1)
    with pytest.raises(PayloadTooLarge):
        Audio.open(sound, AudioOptions(max_s=0.4))


def test_a_sound_that_fits_its_options_is_not_copied() -> None:
    sound = sine(8_000)
    assert AudioOptions(rate=8_000, mono=True).apply(sound) is sound


def test_wav_keeps_every_bit_and_others_read_it() -> None:
    sound = Audio(np.array([[-3.5, 1e-30], [0.1, 1.0]]), 8_000)
    assert Audio.open(sound.wav()).samples.tobytes() == sound.samples.tobytes()
    info = soundfile.info(io.BytesIO(sound.wav()))
    assert (info.frames, info.channels, info.samplerate, info.subtype) == (2, 2, 8_000, "FLOAT")


def test_flac_keeps_24_bits_and_clips() -> None:
    read = Audio.open(Audio(np.array([0.123456, 2.0]), 8_000).flac()).samples[:, 0]
    assert read == pytest.approx([0.123456, 1.0], abs=1e-6)


def test_a_sound_that_flac_cannot_hold_is_an_error() -> None:
    with pytest.raises(InputError, match="no FLAC form"):
        Audio(np.zeros((4, 9)), 8_000).flac()


def test_a_path_is_read(tmp_path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(sine(8_000).wav())
    assert Audio.open(file).rate == Audio.open(str(file)).rate == 8_000
    with pytest.raises(FileNotFoundError):
        Audio.open(tmp_path / "b.wav")
    with pytest.raises(InputError, match="cannot be converted to a sound"):
        Audio.open(3)


def test_it_is_shown_as_a_player_of_its_start() -> None:
    shown = Audio(np.zeros((8_000, 2)), 200)._repr_html_()
    assert '<audio controls src="data:audio/flac;base64,' in shown
    assert "40 s, 200 Hz, channels: 2, of which 30 s are played" in shown
    assert words(sine(8_000)) == "Audio(samples=float32 [2000, 1] from -1 to 1, rate=8000)"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"mlkit\[audio\]"):
        Audio.open(b"fLaC")
    assert Audio(TIME, RATE).wav()
