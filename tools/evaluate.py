"""Measure the product class on photos: ``python -m tools.evaluate PHOTOS``.

PHOTOS holds ``validation/<class>/*.jpg``, photos that took no part in training. Each goes through
the pipeline's own steps; a photo that is given no class counts as wrong.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from mlkit.pipelines import pipeline
from mlkit.tagging.classify import look, product_class
from mlkit.tagging.image import decode
from mlkit.tagging.network import CLASSES
from mlkit.tagging.types import ProductClass


@pipeline
def classify(data: bytes) -> ProductClass | None:
    """Only what the product class needs."""
    return product_class(look(decode(data)))


def main() -> None:
    """Print how many photos of each class are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with <split>/<class>/*.jpg")
    parser.add_argument("--split", default="validation")
    given = parser.parse_args()
    paths = [
        p for name in CLASSES for p in sorted((given.photos / given.split / name).glob("*.jpg"))
    ]
    answers = classify.map([path.read_bytes() for path in paths])
    said = [answer.name if answer else "none" for answer in answers]
    right = Counter(
        p.parent.name for p, name in zip(paths, said, strict=True) if p.parent.name == name
    )
    total = Counter(path.parent.name for path in paths)
    for name in CLASSES:
        print(f"{name:<12} {right[name]:>4} of {total[name]:>4}")
    print(f"none given   {said.count('none'):>4}")
    print(f"right: {sum(right.values())} of {len(paths)} = {sum(right.values()) / len(paths):.1%}")


if __name__ == "__main__":
    main()
