"""Videos: limits before decoding, and frames one by one."""

import av
import numpy as np
import PIL.Image
import pytest

from mlkit import errors
from mlkit.errors import (
    DefinitionError,
    InputError,
    MissingExtra,
    PayloadTooLarge,
    UnsupportedMedia,
)
from mlkit.media import video
from mlkit.media.preview import preview
from mlkit.media.video import Video, VideoOptions
from tests.media.recorded import SOUNDS, claiming, film

SHADES = [5 * k for k in range(40)]
KINDS = [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")]


def shades(clip: Video, **options: float) -> list[int]:
    """The shades of the sampled frames, by number of the frame that they come from."""
    return [round(float(image.pixels[:, 20:].mean()) / 5) for image in clip.frames(**options)]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def data(request: pytest.FixtureRequest) -> bytes:
    return film(SHADES, *request.param)


def test_a_header_tells_size_length_and_rate(data: bytes) -> None:
    clip = Video.open(data)
    assert (clip.width, clip.height, clip.data) == (32, 16, data)
    assert clip.duration_s == pytest.approx(4.0, abs=0.01)
    assert clip.rate == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 10, 20, 30]),
        ({"every_s": 0.25}, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]),
        ({"every_s": 0.5, "limit": 3}, [0, 5, 10]),
        ({"every_s": 1.7}, [0, 17, 34]),
        ({"every_s": 100}, [0]),
        ({"limit": 0}, []),
    ],
)
def test_frames_are_those_that_are_shown_at_equal_distances(
    data: bytes, options: dict[str, float], expected: list[int]
) -> None:
    assert shades(Video.open(data), **options) == expected


def test_more_frames_than_there_are_repeat() -> None:
    assert shades(Video.open(film(SHADES[:2])), every_s=0.05) == [0, 0, 1, 1]


def test_every_s_must_be_positive() -> None:
    clip = Video.open(film([0]))
    for every_s in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            clip.frames(every_s)


@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(data: bytes, part: float) -> None:
    with pytest.raises(InputError, match="truncated or corrupt") as refused:
        Video.open(data[: int(len(data) * part)])
    assert refused.value.status == 422


def test_damaged_frames_are_an_error_where_they_are_taken() -> None:
    clip = bytearray(film(SHADES))
    start = clip.index(b"mdat") + 4
    clip[start + 300 : start + 800] = bytes(500)
    with pytest.raises(InputError, match="truncated or corrupt"):
        list(Video.open(bytes(clip)).frames(0.1))


def test_a_damaged_file_is_an_error_of_its_sender(data: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            damaged[place] = rng.integers(256)
        try:
            list(Video.open(bytes(damaged)).frames())
        except InputError:
            continue


def test_packets_that_do_not_decode_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Video.open(film(SHADES))
    longer = Video(clip.data, clip.width, clip.height, 9.0, clip.rate, clip.kind)
    with pytest.raises(InputError, match="frames are missing"):
        list(longer.frames())


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def __init__(self, *args: object) -> None:
            raise AssertionError("a frame was decoded")

    monkeypatch.setattr(video, "_image_size", Refuses)
    monkeypatch.setattr(video, "_image", Refuses)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("size", [(7_680, 4_320), (4_320, 7_680)])
def test_8k_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 9,437,184 in a frame, got"):
        Video.open(claiming(*size))


def test_a_frame_that_is_larger_than_its_header_says_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="got 272 x 288"):
        Video.open(claiming(256, 256), VideoOptions(max_pixels=256 * 256))


@pytest.mark.usefixtures("no_decoding")
def test_a_long_video_is_refused_before_decoding() -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 600.0 s, got 601.0 s"):
        Video.open(film([0] * 601, rate=1))


def test_what_a_header_does_not_say_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "declared_s", lambda stream: 0.0)
    with pytest.raises(PayloadTooLarge, match=r"at most 2\.0 s"):
        Video.open(film(SHADES), VideoOptions(max_s=2))


def test_options_apply_to_videos_as_to_files() -> None:
    clip = Video.open(film(SHADES))
    assert Video.open(clip) is clip
    for options in (VideoOptions(max_s=3), VideoOptions(max_pixels=511)):
        for source in (clip, clip.data):
            with pytest.raises(PayloadTooLarge):
                Video.open(source, options)
    for wrong in ({"max_s": 0}, {"max_pixels": -1}):
        with pytest.raises(DefinitionError):
            VideoOptions(**wrong)


def test_the_size_of_a_file_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BYTES", 50)
    with pytest.raises(PayloadTooLarge, match="at most 50 bytes"):
        Video.open(film([0]))


@pytest.mark.parametrize("source", [b"\x89PNG\r\n\x1a\n", b"#EXTM3U\nhttp://a/b", SOUNDS["WAV"]()])
def test_another_kind_of_file_is_unsupported(source: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="expected AVI, MP4, WebM"):
        Video.open(source)


def test_a_sound_in_a_container_of_videos_is_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match="no video"):
        Video.open(SOUNDS["MP4"]())


@pytest.mark.parametrize("source", [b"", 3])
def test_what_is_no_file_is_refused(source: object) -> None:
    with pytest.raises(InputError):
        Video.open(source)


@pytest.mark.parametrize(
    ("rotation", "size", "dark"),
    [
        (90, (16, 32), np.s_[18:, :]),
        (-90, (16, 32), np.s_[:14, :]),
        (180, (32, 16), np.s_[:, 18:]),
    ],
)
def test_frames_are_upright(rotation: int, size: tuple[int, int], dark: object) -> None:
    clip = Video.open(film([250, 250], rotation=rotation))
    (image,) = clip.frames()
    assert (clip.width, clip.height) == (image.width, image.height) == size
    assert image.pixels[dark].max() < 60
    assert image.pixels.max() > 200


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times of the frames that are decoded, as they are."""
    times: list[float] = []

    class Container:
        def __init__(self, container: object) -> None:
            self._container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self._container, name)

        def __enter__(self) -> object:
            self._container.__enter__()
            return self

        def __exit__(self, *reason: object) -> None:
            self._container.__exit__(*reason)

        def decode(self, stream: object) -> object:
            for frame in self._container.decode(stream):
                times.append(frame.time)
                yield frame

    opened = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: Container(opened(*args, **options)))
    return times


def test_frames_are_decoded_as_they_are_taken(decoded: list[float]) -> None:
    frames = Video.open(film(SHADES)).frames()
    assert decoded == []
    next(frames)
    assert len(decoded) == 2  # the first, and what ends it
    next(frames)
    assert len(decoded) == 12
    frames.close()
    assert len(decoded) == 12


def test_frames_between_far_images_are_skipped(decoded: list[float]) -> None:
    clip = Video.open(film([k % 50 * 5 for k in range(200)], keyframes=10))
    assert shades(clip, every_s=5) == [0, 0, 0, 0]
    assert shades(clip, every_s=5.5) == [0, 5, 10, 15]
    assert len(decoded) < 120


def test_frames_become_a_video() -> None:
    frames = [np.full((33, 65, 3), shade, np.uint8) for shade in (0, 100, 200)]
    clip = Video.from_frames([frames[0], PIL.Image.fromarray(frames[1]), frames[2]], rate=2)
    assert (clip.width, clip.height, clip.duration_s, clip.media_type) == (64, 32, 1.5, "video/mp4")
    assert [round(float(f.pixels.mean()), -1) for f in clip.frames(0.5)] == [0, 100, 200]
    assert clip == Video.open(clip.data)
    with pytest.raises(InputError, match="at least one frame"):
        Video.from_frames([], 2)


def test_it_is_shown_as_a_strip_of_thumbnails() -> None:
    clip = Video.open(film(SHADES))
    shown = clip._repr_html_()
    assert shown.startswith('<img src="data:image/jpeg;base64,')
    assert "32 × 16, 4 s, 10 frames per second, MP4" in shown
    line = preview(clip)
    assert line.text.startswith("Video(width=32, height=16, duration_s=4")
    assert len(line.thumbnails) == 1


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = film([0])
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"mlkit\[video\]"):
        Video.open(data)
