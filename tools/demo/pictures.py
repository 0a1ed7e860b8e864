"""The pictures of the demo: the sample catalogue, or a folder of anybody's."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlkit
from mlkit.errors import InputError, MlkitError, PayloadTooLarge
from mlkit.media.image import MAX_BYTES

__all__ = [
    "SUFFIXES",
    "Picture",
    "Tagged",
    "in_folder",
    "load_payloads",
    "printable",
    "refusal",
    "sample",
]

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif"})
MOST_PAYLOADS = 256
MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Picture:
    """A file that should be a picture.

    Attributes:
        name: its path within its folder, with slashes.
        path: where it is.
        title: what its seller calls it; may be empty.
    """

    name: str
    path: Path
    title: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with; the file is read by whoever sends it."""
        return {"image": str(self.path), "title": self.title}


@dataclass(frozen=True)
class Tagged:
    """A picture and what came of it: the pipeline's answer, or an error."""

    picture: Picture
    answer: Any = None
    error: Exception | None = None

    @property
    def tags(self) -> list[str]:
        """The tags; none for a picture that failed."""
        return list(self.answer.tags) if self.error is None else []

    @property
    def reason(self) -> str:
        """Why it failed, on one line; empty for one that did not."""
        if self.error is None:
            return ""
        reason = getattr(self.error, "what", None) or str(self.error) or type(self.error).__name__
        return " ".join(str(reason).split())


def sample() -> list[Picture]:
    """The sample catalogue.

    Raises:
        InputError: mlkit does not run from a checkout, which has it.
    """
    data = Path(mlkit.__file__).resolve().parents[1] / "data"
    table = data / "catalogue.csv"
    if not table.is_file():
        raise InputError(
            "the sample catalogue is not here",
            where="tools.demo",
            expected=f"{table.name} in a checkout of mlkit",
            fix="give pictures of your own: python -m tools.demo --images FOLDER",
        )
    with table.open(newline="", encoding="utf-8") as file:
        return [
            Picture(Path(row["image"]).name, data / row["image"], row["title"])
            for row in csv.DictReader(file)
        ]


def in_folder(folder: Path) -> list[Picture]:
    """Whatever is named like a picture in a folder and those within it, by name.

    Hidden files and folders are passed over. Whether a file is what its name says is not looked at.

    Raises:
        InputError: there is no such folder, or nothing in it is named like a picture.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where="--images", got=printable(str(folder)))
    pictures = [Picture(path.relative_to(folder).as_posix(), path) for path in _files(folder)]
    if not pictures:
        raise InputError(
            "there are no pictures in this folder",
            where="--images",
            expected=f"files that end in {', '.join(sorted(SUFFIXES))}",
            got=printable(str(folder)),
        )
    return sorted(pictures, key=lambda picture: picture.name)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(where) / name


def refusal(picture: Picture) -> MlkitError | None:
    """Why a file is not even read: it is no ordinary file, or larger than any server takes."""
    try:
        status = picture.path.stat()
    except OSError as error:
        return InputError(f"the file cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return InputError("this is not an ordinary file")
    if status.st_size > MAX_BYTES:
        return PayloadTooLarge(
            "the picture file is too large",
            expected=f"at most {MAX_BYTES:,} bytes",
            got=f"{status.st_size:,}",
        )
    return None


def load_payloads(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Pictures in memory, as the pipeline's arguments: as many as are reasonable to hold."""
    payloads: list[dict[str, Any]] = []
    held = 0
    for picture in pictures[:MOST_PAYLOADS]:
        data = picture.path.read_bytes()
        held += len(data)
        if payloads and held > MOST_BYTES:
            break
        payloads.append({"image": data, "title": picture.title})
    return payloads


def printable(text: str) -> str:
    """Text that is safe to show: control characters and broken UTF-8 are written out."""
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in known)
