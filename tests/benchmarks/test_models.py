import json
import math

import numpy as np
import pytest
from PIL import Image

from benchmarks import loading, models
from benchmarks.models import Settings, measure


@pytest.fixture
def settings(tmp_path, monkeypatch):
    import mlkit.tagging  # noqa: F401
    import tools.demo.summary

    facts = {"cpu": "a CPU", "cores": 2, "precision": "fp32"}
    monkeypatch.setattr(tools.demo.summary, "machine", lambda _: facts)
    monkeypatch.setattr(tools.demo.summary, "busy", lambda _: "")
    return Settings(tmp_path, 5, None, lambda: None)


def test_each_part_is_a_section_and_others_are_kept(settings, monkeypatch):
    (settings.out / "models.json").write_text('{"swap": {"failed": 0}}')
    monkeypatch.setitem(models.PARTS, "pool", lambda _: {"failed": 0, "hit_rate": math.nan})
    measure(["pool"], settings)
    sections = json.loads((settings.out / "models.json").read_text())
    assert sections["swap"] == {"failed": 0}
    assert sections["pool"] == {"failed": 0, "hit_rate": None}
    assert sections["machine"]["cores"] == 2


def test_photos_are_evenly_chosen_with_the_folder_that_names_their_class(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_PHOTOS", 3)
    for folder, shade in (("hat", 10), ("shoes", 200)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 6), (shade, 0, 0)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "hat" / "notes.txt").write_text("")
    photos, folders = models._photos(tmp_path)
    assert photos.shape == (3, 224, 224, 3)
    assert photos.dtype == np.uint8
    assert folders == ["hat", "hat", "shoes"]
    assert photos[:, 0, 0, 0].tolist() == [10, 10, 200]


def test_the_memory_of_a_process_is_read():
    import os

    assert 1 < loading._pss_mb([os.getpid()]) < 100_000
