"""Make the sample catalogue from the demo shop that the Saleor project published.

    python data/make_catalogue.py [saleor-2.10.1-py3-none-any.whl]

Writes ``data/catalogue/*.jpg`` and ``data/catalogue.csv``. Without an argument pip downloads the
wheel, whose metadata asks for Python 3.8; nothing of it is installed or run.
"""
# ruff: noqa: T201

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import PIL.Image

SHA256 = "ebf33a74d000dcee5298b728b1bb10321521feea74c94a28bf85da556bfd337c"
PICTURES = "saleor/static/placeholders/saleordemoproduct_"
PRODUCTS = "saleor/static/populatedb_data.json"
MAX_SIDE = 640
HERE = Path(__file__).parent


class Expected(NamedTuple):
    """What a person says of a picture; alternatives are separated by ``|``.

    Attributes:
        product_class: kind of clothing, empty where it is none.
        colour: main colour of the product.
        title: beginning of the product's name, where several products share the picture and only
            one of them is what it shows.
    """

    product_class: str
    colour: str
    title: str = ""


# Written down while looking at the pictures, before any of them was tagged.
EXPECTED = {
    "beer-01_1": Expected("", "brown|maroon|black"),
    "beer-01_2": Expected("", "orange|gold|brown"),
    "beer-02_1": Expected("", "green"),
    "beer-02_2": Expected("", "orange|gold|brown"),
    "cl_bogo01_1": Expected("longsleeve|outwear", "black"),
    "cl_bogo02_1": Expected("longsleeve|outwear", "blue"),
    "cl_bogo03_1": Expected("longsleeve|outwear", "orange|gold"),
    "cl_bogo04_1": Expected("longsleeve|outwear", "white|beige"),
    "cl_bogo04_2": Expected("longsleeve|outwear", "white|beige"),
    "cl_boot01_1": Expected("t-shirt", "red"),
    "cl_boot01_2": Expected("t-shirt", "red"),
    "cl_boot01_3": Expected("t-shirt", "red"),
    "cl_boot03_1": Expected("t-shirt", "turquoise|teal"),
    "cl_boot03_2": Expected("t-shirt", "turquoise|teal"),
    "cl_boot06_1": Expected("t-shirt", "white|beige"),
    # A close view of the print: nothing of a shirt is in the picture.
    "cl_boot06_2": Expected("t-shirt|none", "beige|tan"),
    "cl_boot07_1": Expected("t-shirt", "black"),
    "cl_boot07_2": Expected("t-shirt", "black"),
    "cl_polo01": Expected("t-shirt|shirt", "black"),
    "cl_polo02": Expected("t-shirt|shirt", "white"),
    "cl_polo03-woman": Expected("t-shirt|shirt", "white"),
    "cl_polo04-woman": Expected("t-shirt|shirt", "black"),
    "cuschion01": Expected("", "purple|indigo|navy"),
    "cuschion02": Expected("", "white|beige"),
    "fd_juice_01": Expected("", "yellow|gold|khaki"),
    "fd_juice_02": Expected("", "brown", "Bean"),
    "fd_juice_03": Expected("", "blue", "Power"),
    "fd_juice_04": Expected("", "green"),
    "fd_juice_05": Expected("", "orange"),
    "fd_juice_06": Expected("", "orange|gold", "Orange"),
    # The paint, not the white plastic around it.
    "paints_01": Expected("", "navy|indigo"),
    "paints_02": Expected("", "navy|blue"),
    "paints_03": Expected("", "red"),
    "paints_04": Expected("", "gold|yellow"),
    "paints_05": Expected("", "turquoise|teal"),
    "sneakers_01_1": Expected("shoes", "gold|yellow|orange"),
    "sneakers_01_2": Expected("shoes", "gold|yellow|orange"),
    "sneakers_01_3": Expected("shoes", "gold|yellow|orange"),
    "sneakers_01_4": Expected("shoes", "red|gold|yellow|orange"),
    "sneakers_02_1": Expected("shoes", "white"),
    "sneakers_02_2": Expected("shoes", "white"),
    "sneakers_02_3": Expected("shoes", "white"),
    "sneakers_02_4": Expected("shoes", "white"),
    "wine-red": Expected("", "black"),
    "wine-white": Expected("", "khaki|olive"),
}


def main(arguments: list[str]) -> None:
    """Make the catalogue from the wheel that is named, or else downloaded."""
    wheel = Path(arguments[0]).read_bytes() if arguments else download()
    if hashlib.sha256(wheel).hexdigest() != SHA256:
        raise SystemExit("this is not the wheel saleor 2.10.1: its SHA-256 differs")
    rows = write_pictures(zipfile.ZipFile(io.BytesIO(wheel)))
    with (HERE / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "title", "product_class", "colour"])
        writer.writerows(rows)
    size = sum(path.stat().st_size for path in (HERE / "catalogue").glob("*.jpg"))
    print(f"{len(rows)} pictures, {size / 1e6:.2f} MB")


def download() -> bytes:
    """Return the wheel, fetched with pip."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--python-version", "3.8", "--only-binary=:all:", "saleor==2.10.1"]
        subprocess.run([*command, "--dest", folder], check=True)
        return next(Path(folder).glob("*.whl")).read_bytes()


def write_pictures(wheel: zipfile.ZipFile) -> list[tuple[str, str, str, str]]:
    """Write all pictures; return their rows of the table."""
    (HERE / "catalogue").mkdir(exist_ok=True)
    names = titles(json.loads(wheel.read(PRODUCTS)))
    seen: dict[str, int] = defaultdict(int)
    rows = []
    for stem, expected in EXPECTED.items():
        title = next(name for name in names[stem] if name.startswith(expected.title))
        seen[title] += 1
        name = f"{re.sub(r'[^a-z0-9]+', '-', title.lower())}-{seen[title]}.jpg"
        picture = on_white(PIL.Image.open(io.BytesIO(wheel.read(f"{PICTURES}{stem}.png"))))
        picture.save(HERE / "catalogue" / name, quality=85, optimize=True)
        rows.append((f"catalogue/{name}", title, expected.product_class, expected.colour))
    return sorted(rows)


def titles(objects: list[dict[str, object]]) -> dict[str, list[str]]:
    """Return the names of the products that show each picture."""
    fields = defaultdict(dict)
    for item in objects:
        fields[item["model"]][item["pk"]] = item["fields"]
    names = defaultdict(list)
    for image in fields["product.productimage"].values():
        # The data's file names carry a random suffix of seven characters.
        stem = Path(image["image"]).stem.removeprefix("saleordemoproduct_")[:-8]
        names[stem].append(fields["product.product"][image["product"]]["name"])
    return names


def on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return the picture at most 640 pixels a side, its transparent parts white."""
    picture = picture.convert("RGBA")
    white = PIL.Image.new("RGBA", picture.size, "white")
    picture = PIL.Image.alpha_composite(white, picture).convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE), PIL.Image.Resampling.LANCZOS)
    return picture


if __name__ == "__main__":
    main(sys.argv[1:])
