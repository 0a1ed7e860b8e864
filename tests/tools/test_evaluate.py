import json

import numpy as np
import pytest
from PIL import Image as Pillow

from mlkit.tagging.network import weights_file
from mlkit.tagging.types import Box
from tools import evaluate
from tools.evaluate import Answers

FACTS = {
    "cross_validated": 3,
    "min_evidence": -2.1,
    "others": 200,
    "others_taken": 9,
    "photos": 4,
    "photos_refused": 1,
    "seed": 0,
    "temperature": 0.5,
}
ABLATIONS = [
    {
        "head": "linear",
        "parameters": 12810,
        "held_out": [0.871, 0.868],
        "validation": [0.85, 0.8475],
    }
]


@pytest.fixture
def answers():
    return Answers(
        truth=["dress", "dress", "hat", "hat"],
        said=["dress", "skirt", "hat", "none"],
        scores=np.array([0.9, 0.6, 0.95, 0.3]),
        right=np.array([True, False, True, True]),
    )


def test_a_photo_without_a_class_counts_as_wrong(answers):
    assert answers.correct == 2


def test_scores_that_are_shares_have_no_calibration_error():
    right = np.arange(100) < 75
    assert evaluate.calibration_error(np.full(100, 0.75), right) == pytest.approx(0)
    assert evaluate.calibration_error(np.full(100, 0.95), right) == pytest.approx(0.2)


def test_bins_count_every_photo_once_also_the_surest():
    rows = evaluate.reliability(np.array([0.0, 0.05, 0.35, 1.0]), np.ones(4, bool))
    assert [count for count, _, _ in rows] == [2, 1, 1]


@pytest.mark.parametrize(
    ("edges", "share"),
    [((0, 0, 10, 10), 1.0), ((5, 0, 15, 10), 1 / 3), ((10, 0, 20, 10), 0.0), ((0, 0, 5, 5), 0.25)],
)
def test_overlap_is_intersection_over_union(edges, share):
    assert evaluate.overlap(Box(x0=0, y0=0, x1=10, y1=10), edges) == pytest.approx(share)


def test_the_boxes_drawn_by_hand_are_of_the_catalogue_and_inside_its_pictures(repository):
    drawn = json.loads((repository / "data" / "boxes.json").read_text())
    assert sorted(drawn) == sorted(row["image"] for row in evaluate.catalogue())
    for name, (x0, y0, x1, y1) in drawn.items():
        with Pillow.open(repository / "data" / name) as picture:
            assert 0 <= x0 < x1 <= picture.width
            assert 0 <= y0 < y1 <= picture.height


def test_pictures_of_other_things_are_the_same_each_time():
    first, second = list(evaluate.other_things()), list(evaluate.other_things())
    assert first == second
    assert {source for source, _ in first} == {"sample catalogue", "scikit-learn", "generated"}


def test_the_card_says_what_was_measured(answers):
    figures = {
        "photos": 4,
        "correct": 2,
        "accuracy": 0.5,
        "interval": [0.15, 0.85],
        "none_given": 1,
        "accuracy_without_null": 0.75,
        "calibration_error": 0.031,
        "other_things": {"generated": {"pictures": 40, "taken_for_clothing": 3}},
        "boxes": 45,
        "box_iou": 0.61,
        "boxes_over_half": 30,
        "colours": 45,
        "colours_right": 42,
    }
    text = evaluate.card(answers, figures, FACTS, ABLATIONS)
    assert "| 4 | 50.0% | 15.0% to 85.0% |" in text
    assert "| dress | 2 | 1 | 50% |" in text
    assert "| **hat** |  | 1 |  |  |  |  |  |  |  |  | 1 |" in text
    assert "| stamps of Tux Paint, the other half | 200 | 9 |" in text
    assert "| generated | 40 | 3 |" in text
    assert "| linear | 12,810 | 87.1% 86.8% | 85.0% 84.8% |" in text


def test_the_committed_card_has_the_committed_ablations_and_thresholds():
    text = evaluate.CARD.read_text()
    for row in json.loads(evaluate.ABLATIONS.read_text()):
        shares = " ".join(f"{share:.1%}" for share in row["held_out"])
        assert f"| {row['head']} | {row['parameters']:,} | {shares} |" in text
    training = json.loads(weights_file().with_suffix(".json").read_text())
    assert f"The temperature, {training['temperature']}, was" in text
    assert f"is less than\n{training['min_evidence']}, as it is for" in text


def test_the_plot_is_the_same_each_time(answers, tmp_path):
    for name in ("a.svg", "b.svg"):
        evaluate.plot(answers, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
