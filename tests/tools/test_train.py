import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mlkit.tagging.network import CLASSES, SIDE, min_garment, product_head, weights_file
from tools import train


@pytest.fixture
def examples():
    """Maps of two classes that differ in some of their channels."""
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 2
    maps = rng.normal(size=(60, 2, 320, 7, 7)).astype(np.float16)
    maps[classes == 1, :, :40] += np.float16(2)
    maps *= np.float16(5)
    return train.Examples(maps, np.ones(60), classes)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(train, "EPOCHS", 4)
    monkeypatch.setattr(train, "BATCH", 8)


def test_a_head_learns_what_tells_the_classes_apart(examples):
    rows = np.arange(60)
    head = train.fit(examples, rows[:40])
    found = train.probabilities(head, examples, rows[40:])
    assert (found.argmax(1) == examples.classes[40:]).mean() > 0.9


def test_training_is_the_same_each_time(examples):
    first, second = (train.fit(examples, np.arange(16)) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_views_are_squares_and_begin_with_what_is_served_and_its_mirror_image():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 250, 3), dtype=np.uint8)
    square, mirrored, *random = train.views(pixels, np.random.default_rng(0))
    wanted = Pillow.fromarray(pixels).resize((SIDE, SIDE), Pillow.Resampling.BILINEAR)
    np.testing.assert_array_equal(square, np.asarray(wanted))
    np.testing.assert_array_equal(mirrored, square[:, ::-1])
    assert len(random) == train.VIEWS
    assert {view.shape for view in random} == {(SIDE, SIDE, 3)}


def test_photos_come_in_a_fixed_order_with_their_class(tmp_path):
    for name, file in (("hat", "b.jpg"), ("hat", "a.jpg"), ("dress", "c.jpg"), ("hat", "x.txt")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(b"")
    found = [(CLASSES[index], path.name) for index, path in train.photos(tmp_path)]
    assert found == [("dress", "c.jpg"), ("hat", "a.jpg"), ("hat", "b.jpg")]


def test_the_committed_weights_fit_the_head_and_stay_small():
    from safetensors.torch import load_file

    weights = load_file(weights_file())
    missing, unexpected = product_head().load_state_dict(weights, strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert weights_file().stat().st_size < 3_000_000
    assert 0 < min_garment() < 0.5
