"""Tags of a video, with a model that sees nothing: colours are what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from mlkit import step
from mlkit.serving import asgi
from mlkit.tagging import ClipTags, FrameTags, clip_tags, tag_clip
from mlkit.tagging.clip import MIN_SHARE
from mlkit.types import Video
from tests.media.recorded import SOUNDS, claiming, film

LINES = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson"}
RED, BLUE = (200, 0, 0), (0, 0, 200)


class Blind:
    """Outputs of the network for pictures of nothing."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        count = len(pixels)
        self.batches.append(count)
        shapes = (1_000,), (10,), (10, 7, 7), (7, 7)
        return tuple(np.zeros((count, *shape), np.float32) for shape in shapes)


def clip(*colours: tuple[int, int, int]) -> Video:
    return Video.from_frames([np.full((64, 64, 3), colour, np.uint8) for colour in colours], rate=1)


def items(video: Video, every_s: float = 1.0) -> list[FrameTags | ClipTags]:
    return list(clip_tags.fn(video, every_s, model=Blind()))


def test_each_frame_is_tagged_and_then_the_clip() -> None:
    *frames, whole = items(clip(RED, RED, RED, BLUE))
    assert [frame.at_s for frame in frames] == [0, 1, 2, 3]
    red, blue = frames[0].tags, frames[3].tags
    assert red != blue
    assert isinstance(whole, ClipTags)
    assert (whole.frames, whole.tags[0].name, whole.tags[0].share) == (4, red[0], 0.75)
    assert {tag.name: tag.share for tag in whole.tags}[blue[0]] == 0.25


def test_a_tag_that_is_seldom_seen_is_none_of_the_clip() -> None:
    assert MIN_SHARE > 1 / 11
    *_, whole = items(clip(*[RED] * 10, BLUE))
    assert [tag.share for tag in whole.tags] == [0.9091]


def test_one_frame_is_looked_at_at_a_time() -> None:
    model = Blind()
    stream = clip_tags.fn(clip(RED, BLUE), 1.0, model=model)
    assert model.batches == []
    next(stream)
    assert model.batches == [1]


@step
def blind_tags(clip: Video, every_s: float) -> Iterator[FrameTags | ClipTags]:
    yield from clip_tags.fn(clip, every_s, model=Blind())


def test_tags_arrive_over_http_as_lines() -> None:
    video = clip(RED, RED, BLUE)
    with TestClient(asgi(tag_clip.replace(clip_tags=blind_tags))) as client:
        answer = client.post(
            "/tag_clip",
            params={"every_s": 1.0},
            content=video.data,
            headers=LINES,
        )
    events = [json.loads(line) for line in answer.text.splitlines()]
    expected = [item.model_dump() for item in items(video)]
    assert [event["data"] for event in events[:-1]] == expected


BROKEN = {
    "truncated": (clip(RED, BLUE).data[:-50], {}, 422),
    "8K": (claiming(7_680, 4_320), {}, 413),
    "too long": (film([0] * 601, rate=1), {}, 413),
    "a sound": (SOUNDS["WAV"](), {}, 415),
    "empty": (b"", {}, 422),
    "endless": (clip(RED).data, {"every_s": 1e-9}, 422),
    "no time": (clip(RED).data, {"every_s": 0}, 422),
    "never": (clip(RED).data, {"every_s": "nan"}, 422),
}


def test_broken_clips_among_others_fail_alone() -> None:
    good = clip(RED, BLUE).data
    requests = [(good, {}, 200), *BROKEN.values(), (good, {}, 200)] * 2
    with (
        TestClient(asgi(tag_clip.replace(clip_tags=blind_tags))) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def send(request: tuple[bytes, dict[str, Any], int]) -> Any:
            data, parameters, _ = request
            return client.post("/tag_clip", params=parameters, content=data, headers=LINES)

        answers = list(pool.map(send, requests))
    assert [answer.status_code for answer in answers] == [status for *_, status in requests]
    whole = [answer.text for answer in answers if answer.is_success]
    assert len(set(whole)) == 1
    assert len(whole[0].splitlines()) == 4  # two frames, the clip, and the end
