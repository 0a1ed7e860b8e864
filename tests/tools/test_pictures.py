from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlkit.errors import InputError, PayloadTooLarge
from tools.demo import pictures
from tools.demo.pictures import Picture, in_folder, load_payloads, printable, refusal, sample


def test_the_sample_is_the_catalogue_with_its_titles() -> None:
    found = sample()
    assert len(found) >= 40
    assert all(picture.path.is_file() and picture.title for picture in found)
    assert len({picture.name for picture in found}) == len(found)


def test_a_folder_is_read_to_the_bottom_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", "a/d.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [picture.name for picture in in_folder(tmp_path)] == ["a/c.png", "a/d.webp", "b.JPG"]


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        in_folder(tmp_path / folder)


def test_what_is_no_ordinary_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # to read it would never end
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = {p.name: refusal(p) for p in in_folder(tmp_path)}
    assert "not an ordinary file" in str(found["pipe.jpg"])
    assert "cannot be read" in str(found["gone.jpg"])


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)  # sparse: takes no room
    (picture,) = in_folder(tmp_path)
    assert isinstance(refusal(picture), PayloadTooLarge)


def test_any_other_file_is_for_the_pipeline_to_judge(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (picture,) = in_folder(tmp_path)
    assert refusal(picture) is None


def test_payloads_are_bounded_in_number_and_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PAYLOADS", 3)
    monkeypatch.setattr(pictures, "MOST_BYTES", 250)
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(100))
    many = [Picture("a.jpg", path)] * 9
    assert len(load_payloads(many)) == 2
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    assert len(load_payloads(many)) == 1  # one there must be


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("shoe é 鞋.jpg", "shoe é 鞋.jpg"),
        ("a\nb\x1b[2J.jpg", r"a\nb\x1b[2J.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
    ],
)
def test_names_are_shown_without_doing_harm(text: str, shown: str) -> None:
    assert printable(text) == shown
