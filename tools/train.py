"""Train the product head: ``python -m tools.train PHOTOS OTHERS``.

PHOTOS holds ``train/<class>/*.jpg``; its ``validation`` is read for ``--ablations`` only, which
``make model-card`` runs. The backbone is frozen: features of every photo, its mirror image and
random views of it are computed once, and the head (`network.product_head`) is trained on those.
Each fifth of the photos is held out in turn: that tells how good the head is, and sets the
temperature that makes its scores probabilities. The weights are then trained once more on all
photos. On two cores without AVX-512 the features take a quarter of an hour, and the six trainings
two minutes.

The trainings do not depend on each other. With ``--workers 8``, Ray Train divides them among so
many processes, on this machine or on the cluster of ``--address``, and the weights are the same to
the last bit. With ``--trials 20``, Ray Tune searches for better settings first. ``--store FOLDER``
saves the head as a model, which ``app.swap`` deploys, and leaves the weights of the package as they
are::

    python -m tools.train PHOTOS OTHERS --features build --workers 8 --store build/models

OTHERS holds pictures without clothing, by which the threshold for no class is chosen: the stamps of
Tux Paint. On Debian::

    apt-get download tuxpaint-stamps-default=2022.06.04-1
    dpkg -x tuxpaint-stamps-default_*.deb build/stamps
    python -m tools.train PHOTOS build/stamps/usr/share/tuxpaint/stamps
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageEnhance

from mlkit import models
from mlkit.media.image import decode
from mlkit.models import Preprocess, compile_model, efficientnet_lite0
from mlkit.tagging.classify import garment_evidence, garment_share
from mlkit.tagging.network import (
    CLASSES,
    FEATURES,
    HIDDEN,
    SIDE,
    activations,
    features,
    product_head,
    weights_file,
)

VIEWS = 2
"""Random views of each photo."""

STAMPS = ("animals", "food", "hobbies", "household", "plants", "town", "vehicles")
"""Folders of OTHERS that show neither clothing nor people."""

EPOCHS = 15
BATCH = 64
SEED = 0
FOLDS = 5
MEMBERS = 4
"""Narrow heads that are averaged; together they are as wide as the product head."""

MAX_TAKEN = 0.05
"""Share of pictures of other things that may be taken for clothing."""

ABLATIONS = Path("docs/measured/ablations.json")
SEEDS = (0, 1, 2)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Settings:
    """What Ray Tune searches over.

    Attributes:
        rate: highest learning rate.
        decay: weight decay.
        mix: parameter of the beta distribution by which pairs of photos are mixed (Zhang et al.,
            "mixup: Beyond Empirical Risk Minimization", ICLR 2018).
    """

    rate: float = 1e-3
    decay: float = 0.05
    mix: float = 0.4


CHOSEN = Settings()


@dataclass
class Examples:
    """What the head learns from.

    Attributes:
        features: of each view of each photo, float16 [2 + VIEWS, N, 5616]; the first two views are
            the photo and its mirror image.
        pooled: features of the backbone's head, which only ablations see, [2 + VIEWS, N, 1280].
        garments: share of ImageNet's probability on garments, of the first view [N].
        classes: index of the class [N].
    """

    features: Array
    pooled: Array
    garments: Array
    classes: Array


def views(pixels: Array, generators: Sequence[np.random.Generator]) -> Iterator[Array]:
    """The photo squashed to a square, its mirror image, and a random view from each generator."""
    picture = Pillow.fromarray(pixels)
    square = np.asarray(picture.resize((SIDE, SIDE), Pillow.Resampling.BILINEAR))
    yield square
    yield square[:, ::-1]
    for rng in generators:
        yield augmented(picture, rng)


def augmented(picture: Pillow.Image, rng: np.random.Generator) -> Array:
    """A random crop (40 to 100% of the area), mirrored, turned, with other light and colours."""
    width, height = picture.size
    area = rng.uniform(0.4, 1.0) * width * height
    ratio = np.exp(rng.uniform(np.log(0.75), np.log(1.333))) * width / height
    w = min(width, round((area * ratio) ** 0.5))
    h = min(height, round((area / ratio) ** 0.5))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    box = (x, y, x + w, y + h)
    crop = picture.resize((SIDE, SIDE), Pillow.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        corner = tuple(int(v) for v in np.asarray(crop)[0, 0])
        crop = crop.rotate(rng.uniform(-15, 15), Pillow.Resampling.BILINEAR, fillcolor=corner)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhance(crop).enhance(rng.uniform(0.65, 1.35))
    if rng.random() < 0.4:
        hsv = np.array(crop.convert("HSV"))
        hsv[..., 0] += np.uint8(rng.integers(0, 256))
        crop = Pillow.fromarray(hsv, "HSV").convert("RGB")
    view = np.array(crop)
    if rng.random() < 0.25:  # something hides a part
        h, w = rng.integers(40, 90, 2)
        y, x = rng.integers(0, SIDE - h), rng.integers(0, SIDE - w)
        view[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return view


class _Backbone(torch.nn.Module):
    """The head's features, those of the backbone's head, and ImageNet probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = efficientnet_lite0()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps, general = activations(self.net, x)
        pooled = general.mean((2, 3))
        return features(maps), pooled, self.net._fc(pooled).softmax(-1)


def photos(folder: Path) -> Iterator[tuple[int, Path]]:
    """Class and path of every photo, in a fixed order."""
    for index, name in enumerate(CLASSES):
        for path in sorted((folder / name).glob("*.jpg")):
            yield index, path


def others(folder: Path) -> Iterator[tuple[int, Path]]:
    """Path of every stamp without clothing, in a fixed order; as class of no product, -1."""
    for kind in STAMPS:
        for path in sorted((folder / kind).rglob("*.png")):
            yield -1, path


def examine(pictures: Iterable[tuple[int, Path]], count: int) -> Examples:
    """Run the backbone over pictures with their class, and ``count`` random views of each."""
    model = compile_model(
        _Backbone(),
        example=np.zeros((1, SIDE, SIDE, 3), np.uint8),
        preprocess=Preprocess(mean=127.0, scale=128.0),
    )
    generators = [np.random.default_rng(2 + number) for number in range(count)]
    rows, general, garments, classes = [], [], [], []
    for index, path in pictures:
        pixels = decode(path.read_bytes(), min_side=SIDE).pixels
        batch = np.stack(list(views(pixels, generators)))
        layout, pooled, labels = cast(tuple[Array, ...], model(batch))
        rows.append(layout.astype(np.float16))
        general.append(pooled.astype(np.float16))
        garments.append(garment_share(labels[0]))
        classes.append(index)
    return Examples(np.stack(rows, 1), np.stack(general, 1), np.array(garments), np.array(classes))


def layers(inputs: int, width: int) -> Any:
    """Untrained layers of a perceptron, or a linear one if its width is 0."""
    from torch.nn import Linear, ReLU, Sequential

    if not width:
        return Sequential(Linear(inputs, len(CLASSES)))
    return Sequential(Linear(inputs, width), ReLU(), Linear(width, len(CLASSES)))


def fit(
    examples: Examples,
    rows: Array,
    *,
    seed: int = SEED,
    width: int = HIDDEN,
    settings: Settings = CHOSEN,
) -> torch.nn.Sequential:
    """Train a head on some rows of the examples, each epoch on one random view of each photo.

    Args:
        examples: features and classes.
        rows: indices of the photos to train on.
        seed: of the initial weights, the order and the views.
        width: units of the hidden layer; 0 for a linear head.
        settings: of the optimiser and the mixing.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head = layers(examples.features.shape[-1], width)
    torch.manual_seed(seed)  # the same dropout, however much the layers drew
    originals = torch.from_numpy(examples.features[0, rows]).float()
    mean, scale = originals.mean(0), originals.std(0) + 1e-3
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), *head)
    model.insert(len(model) - 1, torch.nn.Dropout(0.3))
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.decay)
    steps = EPOCHS * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps, pct_start=0.1)
    model.train()
    for _ in range(EPOCHS):
        order = rng.permutation(rows)
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            view = rng.integers(0, len(examples.features), BATCH)
            inputs = (torch.from_numpy(examples.features[view, chosen]).float() - mean) / scale
            targets = torch.nn.functional.one_hot(
                torch.from_numpy(examples.classes[chosen]), len(CLASSES)
            ).float()
            share = torch.from_numpy(
                rng.beta(settings.mix, settings.mix, (BATCH, 1)).astype(np.float32)
            )
            other = torch.from_numpy(rng.permutation(BATCH))
            inputs = share * inputs + (1 - share) * inputs[other]
            targets = share * targets + (1 - share) * targets[other]
            loss = torch.nn.functional.cross_entropy(model(inputs), targets, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    _standardise(cast(torch.nn.Linear, head[0]), mean, scale)
    return cast(torch.nn.Sequential, head.eval())


def fit_member(
    examples: Examples, rows: Array, seed: int, settings: Settings = CHOSEN
) -> torch.nn.Sequential:
    """Train one of several narrow heads."""
    return fit(examples, rows, seed=seed, width=HIDDEN // MEMBERS, settings=settings)


def fit_members(
    examples: Examples, rows: Array, *, seed: int = SEED, settings: Settings = CHOSEN
) -> torch.nn.Sequential:
    """Train several narrow heads from different seeds, and merge them into one."""
    return merge(fit_member(examples, rows, each, settings) for each in seeds_of_members(seed))


def seeds_of_members(seed: int = SEED) -> range:
    """Seeds of the narrow heads."""
    return range(MEMBERS * seed, MEMBERS * (seed + 1))


def fit_all(
    examples: Examples, row_sets: Sequence[Array], settings: Settings
) -> list[torch.nn.Sequential]:
    """Train a head on each set of rows, one after the other."""
    return [fit_members(examples, rows, settings=settings) for rows in row_sets]


def merge(heads: Iterable[torch.nn.Sequential]) -> torch.nn.Sequential:
    """One perceptron whose logits are the means of those of several."""
    firsts, _, lasts = zip(*heads, strict=True)
    merged = layers(firsts[0].in_features, sum(layer.out_features for layer in firsts))
    with torch.no_grad():
        merged[0].weight.copy_(torch.cat([layer.weight for layer in firsts]))
        merged[0].bias.copy_(torch.cat([layer.bias for layer in firsts]))
        merged[2].weight.copy_(torch.cat([layer.weight for layer in lasts], 1) / len(lasts))
        merged[2].bias.copy_(torch.stack([layer.bias for layer in lasts]).mean(0))
    return cast(torch.nn.Sequential, merged.eval())


def _standardise(layer: torch.nn.Linear, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Make a layer that was trained on standardised features accept the features themselves."""
    with torch.no_grad():
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ mean)


def scores(head: torch.nn.Sequential, examples: Examples, rows: Array) -> torch.Tensor:
    """Logits [len(rows), 10] of photos as they are served: the first view."""
    with torch.inference_mode():
        logits: torch.Tensor = head(torch.from_numpy(examples.features[0, rows]).float())
    return logits


def temperature(logits: torch.Tensor, classes: Array) -> float:
    """The temperature that makes held-out photos most likely (Guo et al., arXiv:1706.04599)."""
    targets = torch.from_numpy(classes)
    candidates = np.geomspace(0.2, 5.0, 161)
    losses = [torch.nn.functional.cross_entropy(logits / t, targets).item() for t in candidates]
    return float(candidates[int(np.argmin(losses))])


def folds(count: int) -> list[Array]:
    """Indices of the photos in each fifth."""
    return np.array_split(np.random.default_rng(1).permutation(count), FOLDS)


def cross_validate(
    examples: Examples, train: Callable[[Sequence[Array]], Sequence[torch.nn.Sequential]]
) -> tuple[torch.Tensor, torch.nn.Sequential]:
    """Logits [N, 10] of each photo by a head that has not seen it, and a head that has seen all.

    Args:
        examples: features and classes.
        train: returns a head for each set of rows.
    """
    rows = np.arange(len(examples.classes))
    parts = folds(len(rows))
    *heads, final = train([*(np.setdiff1d(rows, held) for held in parts), rows])
    logits = torch.zeros(len(rows), len(CLASSES))
    for held, head in zip(parts, heads, strict=True):
        logits[held] = scores(head, examples, held)
    return logits, final


def evidence(examples: Examples, logits: torch.Tensor) -> Array:
    """The evidence for clothing of each picture [N], as when it is served."""
    return garment_evidence(examples.garments, logits.softmax(1).amax(1).numpy())


def accuracy(head: torch.nn.Sequential, examples: Examples, rows: Array) -> float:
    """Share of photos whose class is the most likely."""
    right = scores(head, examples, rows).argmax(1).numpy() == examples.classes[rows]
    return round(float(right.mean()), 4)


def split(count: int) -> tuple[Array, Array]:
    """Indices of the photos that are held out, and of the rest."""
    held, rest = np.split(np.random.default_rng(1).permutation(count), [count // 5])
    return held, rest


def _pooled(examples: Examples) -> Examples:
    return replace(examples, features=examples.pooled)


def _all_features(examples: Examples) -> Examples:
    return replace(examples, features=np.concatenate([examples.features, examples.pooled], -1))


def _of_product(examples: Examples) -> Examples:
    return examples


HEADS = (
    ("linear, pooled features of the backbone's head", _pooled, partial(fit, width=0)),
    ("perceptron, the same features", _pooled, fit),
    ("perceptron, all features", _all_features, fit),
    ("perceptron, three blocks on a 3 x 3 grid", _of_product, fit),
    (f"the product head: mean of {MEMBERS} narrow ones, same features", _of_product, fit_members),
)
"""Heads that are compared: name, features, and how they are trained."""


def ablate(examples: Examples, validation: Examples) -> Iterator[dict[str, Any]]:
    """Train all `HEADS`, with three seeds each, on the photos not held out."""
    held, rest = split(len(examples.classes))
    for name, select, train in HEADS:
        known, unseen = (select(part) for part in (examples, validation))
        heads = [train(known, rest, seed=seed) for seed in SEEDS]
        yield {
            "head": name,
            "parameters": sum(p.numel() for p in heads[0].parameters()),
            "held_out": [accuracy(head, known, held) for head in heads],
            "validation": [
                accuracy(head, unseen, np.arange(len(unseen.classes))) for head in heads
            ],
        }


def main() -> None:
    """Train, save the weights with their thresholds, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with train/<class>/*.jpg")
    parser.add_argument("others", type=Path, nargs="?", help="folder of the stamps")
    parser.add_argument("--features", type=Path, help="keep the features in this folder")
    parser.add_argument(
        "--ablations",
        action="store_true",
        help=f"train other heads, measure them on validation/, and write {ABLATIONS} instead",
    )
    parser.add_argument("--store", type=Path, help="save the head as a model in this folder")
    parser.add_argument("--workers", type=int, help="train in so many processes, by Ray Train")
    parser.add_argument("--trials", type=int, help="try so many settings first, by Ray Tune")
    parser.add_argument(
        "--address", default="local", help="of a Ray cluster; by default, Ray is started here"
    )
    parser.add_argument(
        "--storage", help="path or URI that all nodes of a cluster can write to, such as s3://..."
    )
    options = parser.parse_args()
    if options.others is None and not options.ablations:
        parser.error("OTHERS is needed to choose the threshold")
    if options.address != "local" and options.storage is None:
        parser.error("on a cluster, --storage is needed: a path or URI that all nodes can write to")
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    examples = _examples(photos(options.photos / "train"), options.features, "train", VIEWS)
    if options.ablations:
        paths = photos(options.photos / "validation")
        validation = _examples(paths, options.features, "validation", 0)
        rows = ablate(examples, validation)
        ABLATIONS.parent.mkdir(exist_ok=True)
        ABLATIONS.write_text(json.dumps(list(rows), indent=2) + "\n")
        return
    stamps = _examples(others(options.others), options.features, "others", 0)
    head, facts, settings = _trained(examples, stamps, options)
    if options.store is None:
        _save(head, facts)
    else:
        print(f"saved as {_save_model(head, facts, settings, options.store)!r}")
    print(json.dumps(facts, indent=2))


def _trained(
    examples: Examples, stamps: Examples, options: argparse.Namespace
) -> tuple[torch.nn.Sequential, dict[str, Any], Settings]:
    """Train a head; return it with its threshold and temperature, and the settings."""
    from tools import distributed

    settings, train = CHOSEN, partial(fit_all, examples)
    on_ray = options.workers or options.trials
    with distributed.ray_running(options.address, options.workers) if on_ray else nullcontext():
        if options.trials:
            settings = distributed.tune(examples, options.trials, options.storage)
        if options.workers:
            train = partial(
                distributed.fit_all, examples, workers=options.workers, storage=options.storage
            )
        logits, head = cross_validate(examples, partial(train, settings=settings))
    heat = temperature(logits, examples.classes)
    _cool(cast(torch.nn.Linear, head[-1]), heat)
    clothing = evidence(examples, logits / heat)
    nothing = evidence(stamps, scores(head, stamps, np.arange(len(stamps.classes))))
    threshold = round(float(np.quantile(nothing[::2], 1 - MAX_TAKEN)), 3)
    facts = {
        "cross_validated": int((logits.argmax(1).numpy() == examples.classes).sum()),
        "min_evidence": threshold,
        "others": len(nothing[1::2]),
        "others_taken": int((nothing[1::2] >= threshold).sum()),
        "photos": len(clothing),
        "photos_refused": int((clothing < threshold).sum()),
        "seed": SEED,
        "temperature": round(heat, 3),
    }
    return head, facts, settings


def _examples(
    pictures: Iterable[tuple[int, Path]], kept: Path | None, name: str, count: int
) -> Examples:
    file = kept / f"{name}.npz" if kept else None
    if file is not None and file.exists():
        with np.load(file) as data:
            return Examples(**data)
    examples = examine(pictures, count)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **vars(examples))
    return examples


def _cool(layer: torch.nn.Linear, heat: float) -> None:
    """Divide a layer's logits by a temperature."""
    with torch.no_grad():
        layer.weight.div_(heat)
        layer.bias.div_(heat)


def _save(head: torch.nn.Sequential, facts: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    # Biases stay in full precision: that of the first layer holds the features' means.
    weights = {
        name: (value.half() if value.ndim == 2 else value).contiguous()
        for name, value in head.state_dict().items()
    }
    weights_file().parent.mkdir(exist_ok=True)
    save_file(weights, weights_file())
    weights_file().with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


def _save_model(
    head: torch.nn.Sequential, facts: dict[str, Any], settings: Settings, store: Path
) -> models.Artefact:
    """Save the head as a model that takes features; `load_tagging_model` takes that."""
    return models.save(
        head,
        "product-head",
        example=np.zeros((1, FEATURES), np.float32),
        builder=product_head,
        labels=CLASSES,
        metrics={**facts, "accuracy": facts["cross_validated"] / facts["photos"]},
        provenance={"settings": asdict(settings)},
        store=store,
    )


if __name__ == "__main__":
    main()
