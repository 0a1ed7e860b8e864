import numpy as np
import pytest
import torch

from mlkit.media.image import Image
from mlkit.models import imagenet_names
from mlkit.tagging.classify import (
    CLASS_WEIGHT,
    GARMENTS,
    Seen,
    garment_evidence,
    garment_share,
    imagenet_labels,
    look,
    product_class,
)
from mlkit.tagging.network import (
    CLASSES,
    SIDE,
    _network_with_weights,
    activations,
    features,
    min_evidence,
)


def seen(labels=None, classes=None):
    """What the network might say: probabilities by name, the rest nothing."""
    names = imagenet_names()
    probabilities = np.zeros(1000, np.float32)
    for name, score in (labels or {}).items():
        probabilities[names.index(name)] = score
    scores = np.zeros(len(CLASSES), np.float32)
    for name, score in (classes or {}).items():
        scores[CLASSES.index(name)] = score
    cells = np.zeros((7, 7), np.float32)
    return Seen(probabilities, scores, cells, cells)


def picture(value, side=SIDE):
    return Image(np.full((side, side, 3), value, np.uint8), side, side)


def test_labels_come_best_first_without_noise():
    labels = imagenet_labels(seen({"sock": 0.3, "sneaker": 0.6, "tench": 0.001}))
    assert [(label.name, label.score) for label in labels] == [("sneaker", 0.6), ("sock", 0.3)]


def test_two_classes_of_one_name_are_one_label():
    found = seen({"necklace": 0.35})
    for index, name in enumerate(imagenet_names()):
        if name == "sunglasses":
            found.labels[index] = 0.3
    labels = imagenet_labels(found)
    assert [label.name for label in labels] == ["sunglasses", "necklace"]
    assert labels[0].score == pytest.approx(0.6, abs=1e-4)


def test_a_picture_of_clothing_gets_the_best_class():
    found = product_class(seen({"T-shirt": 0.5}, {"shirt": 0.3, "t-shirt": 0.6}))
    assert (found.name, found.score) == ("t-shirt", 0.6)


def test_a_picture_of_something_else_gets_none_however_sure_the_head_is():
    assert product_class(seen({"beer bottle": 0.9}, {"hat": 0.99})) is None


@pytest.mark.parametrize("best", [0.3, 0.9])
@pytest.mark.parametrize(("step", "is_class"), [(0.01, True), (-0.01, False)])
def test_the_threshold_is_on_the_log_odds_of_garments_and_of_the_class(best, step, is_class):
    needed = min_evidence() - CLASS_WEIGHT * np.log(best / (1 - best))
    share = 1 / (1 + np.exp(-needed - step))
    found = product_class(seen({"jeans": share}, {"pants": best}))
    assert (found is not None) is is_class


def test_the_evidence_is_finite_for_sure_and_for_impossible_classes():
    assert np.isfinite(garment_evidence(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


def test_garments_are_labels_of_imagenet():
    assert set(imagenet_names()) >= GARMENTS
    assert "" not in GARMENTS


def test_the_share_of_garments_is_a_sum():
    assert garment_share(seen({"jeans": 0.2, "sock": 0.1, "tench": 0.7}).labels) == pytest.approx(
        0.3
    )


def test_each_picture_gets_its_own_row():
    class Model:
        def __call__(self, pixels):
            n = len(pixels)
            level = pixels.mean((1, 2, 3))
            return (
                np.repeat(level[:, None], 1000, 1),
                np.zeros((n, 10)),
                np.zeros((n, 7, 7)),
                np.zeros((n, 7, 7)),
            )

    found = look.fn([picture(10), picture(200, side=300)], model=Model())
    assert [row.labels.shape for row in found] == [(1000,), (1000,)]
    assert [round(float(row.labels[0])) for row in found] == [10, 200]


def test_one_pass_gives_labels_classes_and_maps():
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    model = look.resources["model"].get()
    labels, classes, class_map, label_map = model(pixels)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-3)
    np.testing.assert_allclose(classes.sum(1), 1, rtol=1e-3)
    assert class_map.shape == label_map.shape == (2, 7, 7)


def test_the_map_of_the_class_is_activation_times_gradient():
    net = _network_with_weights()
    pixels = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    x = torch.from_numpy(pixels)
    with torch.no_grad():
        _, classes, class_map, _ = net(x)
        maps, _ = activations(net.net, x)
    maps.requires_grad_()
    logits = net.head(features(maps))
    best = logits.max(1).values
    (by_maps,) = torch.autograd.grad(best.sum(), maps)
    heat = 49 * (by_maps * maps).sum(1)
    expected = heat + (best - heat.mean((1, 2)))[:, None, None]
    assert torch.equal(classes.argmax(1), logits.argmax(1))
    torch.testing.assert_close(class_map, expected.detach(), rtol=1e-3, atol=1e-3)
