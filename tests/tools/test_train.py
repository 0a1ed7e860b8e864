import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mlkit.tagging.network import CLASSES, FEATURES, SIDE, min_evidence, product_head, weights_file
from tools import train


@pytest.fixture
def examples():
    """Features of two classes that differ in some of them, by far in unit and mean."""
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 2
    features = rng.normal(size=(2, 60, FEATURES))
    features[:, classes == 1, :400] += 2
    features = features * np.geomspace(0.01, 10, FEATURES) + 3
    pooled = rng.normal(size=(2, 60, 1280)).astype(np.float16)
    return train.Examples(features.astype(np.float16), pooled, np.ones(60), classes)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(train, "EPOCHS", 4)
    monkeypatch.setattr(train, "BATCH", 8)


def test_a_head_learns_what_tells_the_classes_apart(examples):
    rows = np.arange(60)
    head = train.fit(examples, rows[:40])
    assert train.accuracy(head, examples, rows[40:]) > 0.9


def test_training_is_the_same_each_time(examples):
    first, second = (train.fit(examples, np.arange(16)) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_merged_head_gives_the_mean_of_what_its_parts_give():
    torch.manual_seed(0)
    heads = [train.layers(20, width) for width in (3, 5)]
    inputs = torch.randn(4, 20)
    expected = torch.stack([head(inputs) for head in heads]).mean(0)
    torch.testing.assert_close(train.merge(heads)(inputs), expected)


def test_each_photo_is_judged_by_a_head_that_has_not_seen_it(examples, monkeypatch):
    trained = []

    def heads(row_sets):
        trained.extend(set(rows.tolist()) for rows in row_sets)
        return range(len(row_sets))

    def judged(head, _, held):
        assert not trained[head] & set(held.tolist())
        return torch.full((len(held), 10), 1.0)

    monkeypatch.setattr(train, "scores", judged)
    logits, final = train.cross_validate(examples, heads)
    assert (logits == 1).all()
    assert [len(rows) for rows in trained] == [48] * 5 + [60]
    assert final == 5


def test_the_temperature_undoes_what_made_the_scores_too_sure():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(4000, 10)) * 2)
    classes = np.array([rng.choice(10, p=p) for p in logits.softmax(1).numpy()])
    assert train.temperature(logits * 3, classes) == pytest.approx(3, rel=0.1)


def test_views_are_squares_and_begin_with_what_is_served_and_its_mirror_image():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 250, 3), dtype=np.uint8)
    generators = [np.random.default_rng(seed) for seed in range(5)]
    square, mirrored, *random = train.views(pixels, generators)
    expected = Pillow.fromarray(pixels).resize((SIDE, SIDE), Pillow.Resampling.BILINEAR)
    np.testing.assert_array_equal(square, np.asarray(expected))
    np.testing.assert_array_equal(mirrored, square[:, ::-1])
    assert [view.shape for view in random] == 5 * [(SIDE, SIDE, 3)]
    assert len({view.tobytes() for view in random}) == 5


def test_other_things_are_the_stamps_without_clothing_and_people(tmp_path):
    for name in (
        "animals/birds/b.png",
        "animals/a.png",
        "clothes/hat.png",
        "people/p.png",
        "food/x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for _, path in train.others(tmp_path)]
    assert names == ["animals/a.png", "animals/birds/b.png"]


def test_photos_come_in_a_fixed_order_with_their_class(tmp_path):
    for name, file in (("hat", "b.jpg"), ("hat", "a.jpg"), ("dress", "c.jpg"), ("hat", "x.txt")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(b"")
    photos = [(CLASSES[index], path.name) for index, path in train.photos(tmp_path)]
    assert photos == [("dress", "c.jpg"), ("hat", "a.jpg"), ("hat", "b.jpg")]


def test_features_are_kept_in_a_folder_that_is_made_for_them(tmp_path, examples, monkeypatch):
    monkeypatch.setattr(train, "examine", lambda *_: examples)
    folder = tmp_path / "new" / "features"
    train._examples([], folder, "train", 0)
    monkeypatch.delattr(train, "examine")
    again = train._examples([], folder, "train", 0)
    np.testing.assert_array_equal(again.features, examples.features)


def test_the_committed_weights_fit_the_head_and_stay_small():
    from safetensors.torch import load_file

    weights = load_file(weights_file())
    product_head().load_state_dict(weights)
    assert weights_file().stat().st_size < 4_000_000
    assert -5 < min_evidence() < 2
