"""The pictures of a demo run: the sample catalogue, or a folder of the user's own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from mlkit.errors import InputError

__all__ = ["Picture", "catalogue", "folder"]

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


@dataclass(frozen=True)
class Picture:
    """A picture file with what is known of it."""

    name: str
    title: str
    data: bytes

    @property
    def payload(self) -> dict[str, str | bytes]:
        """The arguments of the tagging pipeline."""
        return {"image": self.data, "title": self.title}


def catalogue(data: Path) -> list[Picture]:
    """The sample catalogue in a checkout's ``data`` folder."""
    with (data / "catalogue.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Picture(Path(r["image"]).name, r["title"], (data / r["image"]).read_bytes()) for r in rows
    ]


def folder(path: Path) -> list[Picture]:
    """Every file below a folder that is named like a picture.

    Raises:
        InputError: there is no such folder, or no such file in it.
    """
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in KINDS and f.is_file())
    if not files:
        raise InputError(
            "no pictures found",
            where=str(path),
            expected=f"a folder with {', '.join(sorted(KINDS))} files",
        )
    return [Picture(str(f.relative_to(path)), "", f.read_bytes()) for f in files]
