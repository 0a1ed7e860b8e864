"""Sounds, videos and normalized texts."""

import dataclasses
from typing import Annotated

import numpy as np
import pydantic as p

from mlkit.media.dataurl import to_data_url
from mlkit.types import Audio, AudioOptions, Text, TextOptions, Video, VideoOptions
from tests.zoo.ways import Entry

TIME = np.arange(400) / 8_000
MONO = Audio(0.5 * np.sin(TIME * 2_764), 8_000)
STEREO = Audio(np.stack([MONO.samples[:, 0], TIME * 20], axis=1), 8_000)
VIDEO = Video.from_frames([np.full((16, 32, 3), 50 * k, np.uint8) for k in range(4)], rate=2)
Speech = Annotated[Audio, AudioOptions(rate=16_000, mono=True, max_s=1)]
Short = Annotated[Video, VideoOptions(max_s=10)]
Title = Annotated[str, TextOptions(max_chars=20)]


class Recording(p.BaseModel):
    title: Title
    sound: Speech
    takes: list[Short] = []


@dataclasses.dataclass
class Take:
    sound: Audio | None
    video: Video
    notes: dict[str, Text]


ENTRIES = [
    Entry("Audio", Audio, (MONO, STEREO)),
    Entry("Audio-flac", Audio, (STEREO.flac(),), body=to_data_url(STEREO.flac(), "audio/flac")),
    Entry("Audio-bytes", Audio, (STEREO.wav(),)),
    Entry("Audio-out-of-range", Audio, (Audio(np.array([-3.5, 1e-30, 2]), 1),)),
    Entry("Audio-empty", Audio, (Audio(np.zeros((0, 2)), 8_000),)),
    Entry("Speech", Speech, (MONO, STEREO, STEREO.wav())),
    Entry("Audio | None", Audio | None, (MONO, None)),
    Entry("list[Audio]", list[Audio], ([MONO, STEREO],)),
    Entry("list[Speech]", list[Speech], ([MONO, STEREO],)),
    Entry("tuple[Audio, float]", tuple[Audio, float], ((MONO, 0.5),)),
    Entry("Audio-described", Annotated[Speech, p.Field(description="what is said")], (STEREO,)),
    Entry("Video", Video, (VIDEO, VIDEO.data)),
    Entry("Short", Short, (VIDEO,)),
    Entry("Video | None", Video | None, (VIDEO, None)),
    Entry("dict[str, Short]", dict[str, Short], ({"a": VIDEO},)),
    Entry("Text", Text, ("naïve", "nai\u0308ve\r\n\t", ""), drawn=False),
    Entry("Title", Title, ("👩\u200d🔬", "שלום"), drawn=False),
    Entry("list[Title]", list[Title], (["a", "e\u0301"],), drawn=False),
    Entry("dict[Title, Text]", dict[Title, Text], ({"e\u0301": "a\r\nb"},), drawn=False),
    Entry("Text | None", Text | None, ("e\u0301", None), drawn=False),
    Entry(
        "Recording", Recording, (Recording(title="a", sound=STEREO, takes=[VIDEO]),), drawn=False
    ),
    Entry("Take", Take, (Take(MONO, VIDEO, {"a": "b"}), Take(None, VIDEO, {})), drawn=False),
]
