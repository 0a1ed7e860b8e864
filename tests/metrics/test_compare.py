"""Comparisons of a version on trial: counted in processes, merged, and shown."""

from __future__ import annotations

import numpy as np

from mlkit.metrics import Gatherer, Recorder
from mlkit.metrics.compare import MAX_KEPT, MAX_SAMPLED, Disagreements
from mlkit.metrics.recorder import merged


def disagree(recorder: Recorder, count: int, version: str = "v2") -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    for i in range(count):
        recorder.compared(version, ({"image": image, "n": i}, "shoe", "hat"), ["label"])


def frame(gatherer: Gatherer) -> Disagreements:
    found = gatherer.comparisons()
    return Disagreements(**{**found, "samples": tuple(found["samples"])})


def test_comparisons_of_all_processes_are_counted() -> None:
    gatherer = Gatherer()
    for _ in range(2):
        recorder = Recorder("shop")
        recorder.compared("v2", None)
        recorder.dropped("v2")
        disagree(recorder, 1)
        gatherer.push(recorder.take())
    counts = frame(gatherer)
    assert (counts.version, counts.compared, counts.disagreed, counts.dropped) == ("v2", 4, 2, 2)


def test_the_last_version_is_the_one_that_is_shown() -> None:
    gatherer, recorder = Gatherer(), Recorder("shop")
    for version in ("v2", "v3", "v2"):
        disagree(recorder, 1, version)
        gatherer.push(recorder.take())
    assert (frame(gatherer).version, frame(gatherer).compared) == ("v2", 2)


def test_deltas_that_could_not_be_pushed_keep_their_comparisons() -> None:
    recorder = Recorder("shop")
    disagree(recorder, 1)
    first = recorder.take()
    disagree(recorder, 2)
    assert merged(first, recorder.take())["compared"]["v2"]["compared"] == 3


def test_few_samples_are_kept_and_all_are_counted() -> None:
    gatherer, recorder = Gatherer(), Recorder("shop")
    for _ in range(MAX_KEPT // MAX_SAMPLED + 2):
        disagree(recorder, MAX_SAMPLED + 1)
        gatherer.push(recorder.take())
    counts = frame(gatherer)
    assert counts.disagreed == (MAX_KEPT // MAX_SAMPLED + 2) * (MAX_SAMPLED + 1)
    assert len(counts) == MAX_KEPT


def test_disagreements_show_pictures_and_both_results() -> None:
    gatherer, recorder = Gatherer(), Recorder("shop")
    disagree(recorder, 1)
    gatherer.push(recorder.take())
    shown = frame(gatherer)
    (row,) = shown.to_frame().to_dict("records")
    assert row["image"].startswith("data:image/")
    assert (row["n"], row["old"], row["new"], row["differing"]) == ("0", "'shoe'", "'hat'", "label")
    assert "disagrees on 1 of 1 requests (100.0%)" in str(shown)
    assert '<img src="data:image/' in shown._repr_html_()


def test_without_requests_there_is_a_word() -> None:
    shown = frame(Gatherer())
    assert "has seen no request yet" in str(shown)
    assert len(shown.to_frame()) == 0
