"""Sounds, videos and titles through pipelines behind HTTP: recognized, searched, and broken."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import pytest
import soundfile
from fastapi import Depends, FastAPI, UploadFile
from pydantic import BaseModel
from sklearn.feature_extraction.text import TfidfVectorizer
from starlette.testclient import TestClient

from mlkit import Image, batched_step, pipeline, resource, step
from mlkit.media.dataurl import to_data_url
from mlkit.media.image import encode_png
from mlkit.serving import Limits, asgi, served
from mlkit.types import Audio, AudioOptions, Text, TextOptions, Video, VideoOptions
from tests.media.recorded import claiming, film

Speech = Annotated[Audio, AudioOptions(rate=8_000, mono=True, max_s=20)]
Clip = Annotated[Video, VideoOptions(max_s=20)]
Title = Annotated[str, TextOptions(max_chars=200)]


# --- a sound is classified


def tone(hertz: float, rate: int = 8_000, seconds: float = 0.1) -> Audio:
    return Audio(np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate), rate)


class Pitch(BaseModel):
    name: str
    frames: int


def centroids() -> dict[str, float]:
    return {"low": 200.0, "high": 2_000.0}


@batched_step(max_batch_size=8)
def classify(sounds: list[Audio], *, model: dict[str, float] = resource(centroids)) -> list[Pitch]:
    return [
        Pitch(
            name=min(model, key=lambda name: abs(model[name] - _pitch(sound))),
            frames=len(sound.samples),
        )
        for sound in sounds
    ]


def _pitch(sound: Audio) -> float:
    spectrum = np.abs(np.fft.rfft(sound.samples[:, 0]))
    return float(spectrum.argmax()) * sound.rate / len(sound.samples)


@pipeline
def listen(sound: Speech) -> Pitch:
    return classify(sound)


def ogg(sound: Audio) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, sound.samples, sound.rate, format="OGG")
    return out.getvalue()


LOW, HIGH = tone(220), tone(1_900, rate=44_100)
WAYS = {
    "raw": lambda name, data: {"content": data, "headers": {"Content-Type": f"{name}/ogg"}},
    "form": lambda name, data: {"files": {_FIELDS[name]: ("a", data, f"{name}/ogg")}},
    "JSON": lambda name, data: {"json": {_FIELDS[name]: to_data_url(data, f"{name}/ogg")}},
    "base64 of another alphabet": lambda name, data: {
        "json": {_FIELDS[name]: f"data:;base64,{base64.urlsafe_b64encode(data).decode()}"}
    },
}
_FIELDS = {"audio": "sound", "video": "clip"}


@pytest.fixture(scope="module")
def ear() -> Iterator[TestClient]:
    with TestClient(asgi(listen)) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("sound", "name"), [(LOW, "low"), (HIGH, "high")])
def test_a_sound_is_classified_however_it_comes(
    ear: TestClient, way: str, sound: Audio, name: str
) -> None:
    for data in (sound.wav(), sound.flac(), ogg(sound)):
        answer = ear.post("/listen", **WAYS[way]("audio", data))
        assert (answer.status_code, answer.json()) == (200, {"name": name, "frames": 800})


def test_a_sound_is_the_same_here_and_there(face) -> None:
    client = face(listen)
    for sound in (LOW, HIGH, HIGH.wav()):
        assert client.ask(sound=sound) == listen(sound)


BROKEN_SOUNDS = {
    "truncated": (LOW.wav()[:-8], 422),
    "truncated, compressed": (ogg(LOW)[:-8], 422),
    "ten hours": (Audio(np.zeros(36_000), 1).wav(), 413),
    "a picture": (encode_png(np.zeros((4, 4, 3), np.uint8)), 415),
    "a playlist": (b"#EXTM3U\nhttp://127.0.0.1/secret", 415),
    "empty": (b"", 422),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", BROKEN_SOUNDS)
def test_a_broken_sound_has_its_status_on_every_way(ear: TestClient, way: str, case: str) -> None:
    data, status = BROKEN_SOUNDS[case]
    answer = ear.post("/listen", **WAYS[way]("audio", data))
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


def test_broken_sounds_among_others_fail_alone(ear: TestClient) -> None:
    bodies = [LOW.wav(), *(data for data, _ in BROKEN_SOUNDS.values()), HIGH.flac()] * 3
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda body: ear.post("/listen", content=body, headers=WAV), bodies)
        )
    statuses = [200, *(status for _, status in BROKEN_SOUNDS.values()), 200] * 3
    assert [answer.status_code for answer in answers] == statuses
    names = [answer.json()["name"] for answer in answers if answer.status_code == 200]
    assert names == ["low", "high"] * 3


WAV = {"Content-Type": "audio/wav"}


class Take(BaseModel):
    title: Title
    sounds: list[Speech]


@step
def lengths(take: Take) -> list[int]:
    return [len(sound.samples) for sound in take.sounds]


@pipeline
def measure(take: Take) -> list[int]:
    return lengths(take)


def test_a_sound_within_a_model_has_the_same_options_and_statuses(face) -> None:
    client = face(measure)
    urls = [to_data_url(data, "audio/x") for data in (HIGH.wav(), LOW.flac())]
    answer = client.post("/measure", json={"take": {"title": "a", "sounds": urls}})
    assert answer.json() == [800, 800]
    for data, status in BROKEN_SOUNDS.values():
        sounds = [urls[0], to_data_url(data, "audio/x")]
        answer = client.post("/measure", json={"take": {"title": "a", "sounds": sounds}})
        assert answer.status_code == status
    answer = client.post("/measure", json={"take": {"title": "a" * 201, "sounds": urls}})
    assert answer.status_code == 413


@step
def reverse(sound: Audio) -> Audio:
    return Audio(sound.samples[::-1], sound.rate)


@pipeline
def backwards(sound: Audio) -> Audio:
    return reverse(sound)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "audio/wav"),
        ("audio/wav", "audio/wav"),
        ("audio/flac", "audio/flac"),
        ("audio/wav;q=0.5, audio/flac", "audio/flac"),
        ("application/json", "audio/wav"),
    ],
)
def test_a_result_is_a_file_of_the_kind_that_is_asked_for(face, accept: str, kind: str) -> None:
    answer = face(backwards).post(
        "/backwards", content=HIGH.wav(), headers={**WAV, "Accept": accept}
    )
    assert answer.headers["content-type"] == kind
    samples = Audio.open(answer.content).samples
    assert np.abs(samples[::-1] - HIGH.samples).max() < 1e-6


def test_the_documentation_names_the_kinds_of_files(face) -> None:
    operation = face(backwards).get("/openapi.json").json()["paths"]["/backwards"]["post"]
    assert {"audio/wav", "audio/*"} <= operation["requestBody"]["content"].keys()
    assert {"audio/wav", "audio/flac"} <= operation["responses"]["200"]["content"].keys()


# --- a clip is tagged


class Seen(BaseModel):
    at_s: float
    tag: str


class Merged(BaseModel):
    frames: int
    shares: dict[str, float]


def brightness_of(picture: Image) -> str:
    return "light" if picture.pixels.mean() > 60 else "dark"


@step
def watch(clip: Video, every_s: float) -> Iterator[Seen | Merged]:
    counts: Counter[str] = Counter()
    for k, picture in enumerate(clip.frames(every_s)):
        tag = brightness_of(picture)
        counts[tag] += 1
        yield Seen(at_s=k * every_s, tag=tag)
    number = counts.total()
    yield Merged(frames=number, shares={tag: n / number for tag, n in counts.items()})


@pipeline
def tag_film(clip: Clip, every_s: float = 1.0) -> Iterator[Seen | Merged]:
    return watch(clip, every_s)


FILM = film([250] * 30 + [0] * 10)
LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def eye() -> Iterator[TestClient]:
    with TestClient(asgi(tag_film)) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
def test_a_clip_is_tagged_frame_by_frame_and_as_a_whole(eye: TestClient, way: str) -> None:
    request = WAYS[way]("video", FILM)
    request["headers"] = request.get("headers", {}) | LINES
    lines = [json.loads(line) for line in eye.post("/tag_film", **request).text.splitlines()]
    assert [line["data"] for line in lines[:-1]] == [
        {"at_s": 0.0, "tag": "light"},
        {"at_s": 1.0, "tag": "light"},
        {"at_s": 2.0, "tag": "light"},
        {"at_s": 3.0, "tag": "dark"},
        {"frames": 4, "shares": {"light": 0.75, "dark": 0.25}},
    ]
    assert lines[-1] == {"event": "end", "data": {"items": 5}}


def test_a_clip_is_the_same_here_and_there(face) -> None:
    client = face(tag_film)
    assert client.ask(clip=FILM, every_s=0.5) == tag_film(FILM, every_s=0.5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (FILM[:-100], 422),
        (film([0] * 21, rate=1), 413),
        (claiming(7_680, 4_320), 413),
        (LOW.wav(), 415),
        (b"#EXTM3U\nhttp://127.0.0.1/secret", 415),
        (b"", 422),
    ],
    ids=["truncated", "long", "8K", "a sound", "a playlist", "empty"],
)
def test_a_broken_clip_has_its_status_and_the_next_is_tagged(
    eye: TestClient, way: str, data: bytes, status: int
) -> None:
    assert eye.post("/tag_film", **WAYS[way]("video", data)).status_code == status
    assert eye.post("/tag_film", **WAYS[way]("video", FILM)).status_code == 200


@step
def negative(clip: Video) -> Video:
    return Video.from_frames((255 - image.pixels for image in clip.frames(0.5)), rate=2)


@pipeline
def invert(clip: Video) -> Video:
    return negative(clip)


@step
def unchanged(clip: Video) -> Video:
    return clip


@pipeline
def echo(clip: Video) -> Video:
    return unchanged(clip)


def test_a_result_that_is_a_video_is_a_file(face) -> None:
    answer = face(invert).post("/invert", content=FILM, headers={"Content-Type": "video/mp4"})
    assert answer.headers["content-type"] == "video/mp4"
    clip = Video.open(answer.content)
    assert clip.duration_s == 4.0
    assert [brightness_of(image) for image in clip.frames()] == ["light"] * 4


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (FILM, "video/mp4"),
        (film([0], "avi"), "video/x-msvideo"),
        (film([0], "webm", "libvpx"), "video/webm"),
    ],
)
def test_a_video_keeps_its_kind(face, data: bytes, kind: str) -> None:
    answer = face(echo).post("/echo", content=data, headers={"Content-Type": "video/quicktime"})
    assert (answer.headers["content-type"], answer.content) == (kind, data)


@step
def still(seconds: int) -> Video:
    return Video.from_frames([np.zeros((16, 16, 3), np.uint8)] * seconds, rate=1)


@pipeline
def wait_in_pictures(seconds: int) -> Video:
    return still(seconds)


@step
def hush(seconds: int) -> Audio:
    return Audio(np.zeros(seconds), rate=1)


@pipeline
def silence(seconds: int) -> Audio:
    return hush(seconds)


@pytest.mark.parametrize(
    ("pipe", "accept"), [(wait_in_pictures, "*/*"), (silence, "*/*"), (silence, "audio/flac")]
)
def test_a_result_has_no_limit(face, pipe, accept: str) -> None:
    answer = face(pipe).post(f"/{pipe.name}", json={"seconds": 601}, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text


def test_a_route_of_ones_own_passes_uploads_to_a_pipeline() -> None:
    shop = FastAPI()

    @shop.post("/clips")
    async def clips(file: UploadFile, tagger=Depends(served(tag_film))) -> str:
        *_, merged = await tagger(await file.read())
        return max(merged.shares, key=merged.shares.__getitem__)

    with TestClient(asgi(tag_film, fastapi=shop)) as client:
        assert client.post("/clips", files={"file": FILM}).json() == "light"
        assert client.post("/clips", files={"file": FILM[:-100]}).status_code == 422
        assert client.post("/clips", files={"file": LOW.wav()}).status_code == 415


# --- titles are embedded and searched

CATALOGUE = ["red leather shoe", "blue cotton shirt", "chaussure en cuir rouge", "café crème mug"]


class Index:
    """Texts as unit vectors: weighted character n-grams, which need no language."""

    def __init__(self) -> None:
        self.vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
        self.vectors = self.vectorizer.fit_transform(CATALOGUE)

    def scores(self, titles: list[str]) -> np.ndarray:
        return (self.vectorizer.transform(titles) @ self.vectors.T).toarray()


class Hit(BaseModel):
    title: str
    score: float


@batched_step(max_batch_size=16)
def nearest(titles: list[str], *, index: Index = resource(Index)) -> list[Hit]:
    scores = index.scores(titles)
    return [
        Hit(title=CATALOGUE[k], score=round(float(row[k]), 3))
        for row, k in zip(scores, scores.argmax(axis=1), strict=True)
    ]


@pipeline
def search(title: Title) -> Hit:
    return nearest(title)


@pytest.fixture(scope="module")
def shelf() -> Iterator[TestClient]:
    with TestClient(asgi(search)) as client:
        yield client


@pytest.mark.parametrize(
    ("title", "hit"),
    [
        ("shoes, red", "red leather shoe"),
        ("une chaussure rouge", "chaussure en cuir rouge"),
        ("cafe\u0301 cre\u0300me", "café crème mug"),
    ],
)
def test_a_title_finds_the_nearest(shelf: TestClient, title: str, hit: str) -> None:
    assert shelf.post("/search", json={"title": title}).json()["title"] == hit
    assert shelf.post("/search", data={"title": title}).json()["title"] == hit


def test_equal_titles_have_equal_scores(shelf: TestClient) -> None:
    scores = {
        shelf.post("/search", json={"title": title}).json()["score"]
        for title in ("café crème mug", "cafe\u0301 cre\u0300me mug")
    }
    assert scores == {1.0}


@pytest.mark.parametrize("way", ["json", "data"])
@pytest.mark.parametrize(
    ("title", "status"),
    [("a" * 201, 413), ("a" * 10_000_000, 413), ("a\0", 422), ("a\x1b[2J", 422)],
)
def test_a_title_that_is_none_has_its_status(
    shelf: TestClient, way: str, title: str, status: int
) -> None:
    answer = shelf.post("/search", **{way: {"title": title}})
    assert answer.status_code == status
    assert len(answer.content) < 500
    assert shelf.post("/search", json={"title": "shirt"}).status_code == 200


@step
def length(text: str) -> int:
    return len(text)


@pipeline
def count(text: Text) -> int:
    return length(text)


def test_the_limit_on_a_text_is_documented_and_that_on_bodies_comes_first(face) -> None:
    client = face(count, limits=Limits(max_body_bytes=1_000))
    answer = client.post("/count", json={"text": "a" * 2_000})
    assert (answer.status_code, "the body" in answer.json()["detail"]) == (413, True)
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["CountRequest"]["properties"]["text"]["maxLength"] == 10_000
